"""What benchmarks and these tests share lies with the benchmarks; ranks import it by name."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
