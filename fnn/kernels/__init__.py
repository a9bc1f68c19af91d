"""Array routines behind the operators, chosen for speed and exact sums. You can understand the library without them."""
