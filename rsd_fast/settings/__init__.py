"""From what a user asked for to what is done."""
