"""`python -m fnn.testing`: a line for each example of every public operator, with its gradients' worst error."""

import sys
import warnings

from fnn.testing.compare import CheckError
from fnn.testing.table import TABLE


def main() -> int:
    """Prints the table; returns 1 if an operator failed, and 0 if none did."""
    warnings.filterwarnings("ignore", "shard: BLAS", RuntimeWarning)  # to a few numbers it makes no difference
    failed = 0
    examples = [example for several in TABLE.values() for example in several]
    for example in examples:
        how = "" if example.key is None else ", with a key"
        how += "".join(f", without {name}" for name in example.exempt)
        what = f"{' '.join(repr(example.op).split())} {(example.batch, *example.shape)}{how}"
        try:
            print(f"{example.check():8.1e}  {what}")
        except CheckError as error:
            failed += 1
            print(f"  FAILED  {what}\n          {error}")
    print(f"{len(examples) - failed} of {len(examples)} passed; the number is the gradients' worst relative error")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
