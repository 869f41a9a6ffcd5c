"""The argument by which a command joins the other processes of a job."""

import argparse


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --distributed: None without it, "" when JAX finds the job by itself."""
    parser.add_argument(
        "--distributed",
        nargs="?",
        const="",
        metavar="KEY=VALUE,…",
        help="join the other processes of this job. SLURM, Open MPI, Kubernetes and TPU VMs are found as JAX finds "
        "them; anywhere else: coordinator_address=HOST:PORT,num_processes=N,process_id=I. Also "
        "initialization_timeout=300 and heartbeat_timeout_seconds=100, after which a silent process counts as lost",
    )
