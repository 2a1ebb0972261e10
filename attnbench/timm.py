"""Import this, and timm knows every layout with every mechanism: ``timm.create_model("swin_t_bra")``.

Any script that makes its models with timm can be run so that it does, timm's own among them::

    python -m attnbench.timm train.py --model biformer_stl_bra --data-dir ...

Mechanisms of plug-ins are found as everywhere, by entry points and ATTNBENCH_PLUGINS; after
:func:`attnbench.add_plugin`, call :func:`register` again.
"""

import runpy
import sys
from pathlib import Path

import click

from attnbench.errors import AttnbenchError
from attnbench.harness.models.timm_models import register

__all__ = ["register"]

register()


def main() -> None:
    """Run a script, with its arguments, after our models have been registered."""
    script = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if script is None or not script.is_file():
        wrong = f"there is no script {script}; " if script else ""
        click.echo(f"{wrong}usage: python -m attnbench.timm SCRIPT.py [ARGUMENT]...", err=True)
        sys.exit(2)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(script.resolve().parent))  # as python does for the script it runs
    try:
        runpy.run_path(str(script), run_name="__main__")
    except AttnbenchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
