"""`python -m fnn.testing`: checks every public operator; each line has an example and its largest gradient error."""

import sys
import warnings

from fnn.testing.compare import CheckError
from fnn.testing.table import TABLE


def main() -> int:
    """Checks all examples and prints the results; returns 1 if one failed, else 0."""
    warnings.filterwarnings("ignore", "shard: BLAS", RuntimeWarning)  # it makes no difference for such small examples
    examples, failed = [example for row in TABLE.values() for example in row], 0
    for example in examples:
        notes = ["with a key"] * (example.key is not None) + [f"without {name}" for name in example.exempt]
        label = ", ".join([f"{' '.join(repr(example.op).split())} {(example.batch, *example.shape)}", *notes])
        try:
            print(f"{example.check():8.1e}  {label}")
        except CheckError as error:
            failed += 1
            print(f"  FAILED  {label}\n          {error}")
    print(f"{len(examples) - failed} of {len(examples)} passed; the number is the largest relative error of a gradient")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
