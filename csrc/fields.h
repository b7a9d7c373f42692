// The fields of a kernel's Args, and what Python may set of them, from one list. In op.h, RSD_OP_FIELDS(FIELD) has a
// line FIELD(Type, name) for each, with a comment on what is there, and
//
//   struct OpArgs {
//     RSD_FIELDS(RSD_OP_FIELDS)
//   };
//
// declares the members, and each_field(visit), which calls visit("name", name) for one after the other.
#pragma once

#define RSD_DECLARE_FIELD(Type, name) Type name;
#define RSD_VISIT_FIELD(Type, name) visit(#name, name);
#define RSD_FIELDS(LIST)           \
  LIST(RSD_DECLARE_FIELD)          \
  template <class Visit>           \
  void each_field(Visit&& visit) { \
    LIST(RSD_VISIT_FIELD)          \
  }
