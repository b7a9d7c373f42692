// A mask that broadcasts against [batch, inner] images: strides over sample, channel and pixel, 0 where it repeats.
#pragma once
#include "dtype.h"
#include "fields.h"

namespace rsd {

#define RSD_MASK_FIELDS(FIELD)                                                           \
  FIELD(const void*, data) /* dtype, uint8 or that of the images; null: there is none */ \
  FIELD(int64_t, batch_stride)                                                           \
  FIELD(int64_t, channel_stride)                                                         \
  FIELD(int64_t, pixel_stride)                                                           \
  FIELD(int64_t, channels) /* inner = channels * pixels */                               \
  FIELD(int64_t, pixels)                                                                 \
  FIELD(DType, dtype)                                                                    \
  FIELD(bool, channels_last) /* which of the two is innermost in the images */

struct MaskArgs {
  RSD_FIELDS(RSD_MASK_FIELDS)

  RSD_HD_MEMBER int64_t offset(int64_t b, int64_t element) const {
    const int64_t c = channels_last ? element % channels : element / pixels;
    const int64_t p = channels_last ? element / channels : element % pixels;
    return b * batch_stride + c * channel_stride + p * pixel_stride;
  }
};

template <class A>
RSD_HD A mask_at(const MaskArgs& mask, int64_t offset) {
  return mask.dtype == kUInt8 ? A(static_cast<const uint8_t*>(mask.data)[offset])
                              : static_cast<const A*>(mask.data)[offset];
}

// The mask's value at an element of sample b; 1 where there is no mask.
template <class A>
RSD_HD A mask_of(const MaskArgs& mask, int64_t b, int64_t element) {
  return mask.data == nullptr ? A(1) : mask_at<A>(mask, mask.offset(b, element));
}

}  // namespace rsd
