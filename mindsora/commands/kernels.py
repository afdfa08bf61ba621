"""`mindsora kernels`: what computes each operator here, and why."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`mindsora kernels` has no options."""


def run(args: argparse.Namespace) -> None:
    from mindsora.kernels.choice import describe

    print(describe())
