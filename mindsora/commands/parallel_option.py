"""The option of several cards for one clip."""

import argparse

from mindsora.runtime import Runtime


def add_parallel(parser: argparse.ArgumentParser) -> None:
    """The option that the other functions read."""
    parser.add_argument(
        "--parallel",
        metavar="LAYOUT",
        help="under msrun: several cards for one clip, such as cfg=2,cp=4 (docs/parallel.md)",
    )


def joined(parallel: str | None, policy: Runtime):
    """The Mesh of `--parallel`, with the policy applied, or None. Its ranks have found each other when it returns."""
    if parallel is None:
        return None
    policy.apply()
    from mindsora.parallel.layout import Layout, mesh_of  # imports MindSpore, whose settings `apply` has just made

    return mesh_of(Layout.parse(parallel))


def schedule(parallel: str | None) -> None:
    """What msrun's scheduler does; without `--parallel` the ranks share no tensors, so there is nothing to schedule."""
    if parallel is not None:
        from mindsora.parallel.launch import serve

        serve()


def leave(mesh) -> None:
    """Wait at the end for the ranks of a Mesh; None: there is none."""
    if mesh is not None:
        from mindsora.parallel.launch import leave as wait

        wait(mesh.world)
