"""Takes the study's measurements: every benchmark below, its table as JSON into results/.

python experiments/scaling/run.py [NAME …]     # all, or some of the names below
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
# Name, also of the file in results/ -> commands, whose rows come together there.
RUNS = {
    "sharding_memory": [["sharding_memory.py"]],
    "contrastive_memory": [
        ["contrastive_memory.py"],
        ["contrastive_memory.py", "--add", "--batch", "32768"],
        ["contrastive_memory.py", "--add", "--batch", "131072", "--no-run"],
    ],
}


def main() -> None:
    """Runs what is asked for, one after the other."""
    names = sys.argv[1:] or list(RUNS)
    if unknown := sorted(set(names) - set(RUNS)):
        raise SystemExit(f"no measurement {', '.join(unknown)}; there are {', '.join(RUNS)}")
    for name in names:
        for script, *options in RUNS[name]:
            table = ["--json", str(HERE / "results" / f"{name}.json")]
            subprocess.run([sys.executable, str(BENCHMARKS / script), *options, *table], check=True)


if __name__ == "__main__":
    main()
