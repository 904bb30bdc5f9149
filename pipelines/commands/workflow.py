"""Commands that run pipelines."""

from __future__ import annotations

import click

from pipelines.commands.options import say


@click.command()
@click.argument("pipeline", metavar="PIPELINE.yaml")
@click.option("--out", metavar="DIR", help="Where the steps write.  [default: the file's `out`, else its name]")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A variable, or STEP.OPTION.")
@click.option("--from", "start_from", metavar="STEP", help="Do this step and all that need it again.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.pass_context
def run(
    context: click.Context,
    pipeline: str,
    out: str | None,
    changes: tuple[str, ...],
    start_from: str | None,
    dry_run: bool,
) -> None:
    """Run the steps of a pipeline that are not done or have changed; the same command resumes.

    PIPELINE.yaml is a file, or the name of a packaged example.
    """
    from pipelines.report.html import write_report
    from pipelines.workflow.pipeline import load_pipeline
    from pipelines.workflow.runner import run_pipeline
    from pipelines.workflow.state import plan_steps

    if bad := [change for change in changes if "=" not in change]:
        raise click.UsageError(f"--set {bad[0]}: expected NAME=VALUE")
    loaded = load_pipeline(pipeline, dict(change.split("=", 1) for change in changes), out, _program(context))
    if start_from and start_from not in {step.name for step in loaded.steps}:
        raise click.UsageError(f"--from {start_from}: no such step")
    if dry_run:
        for state in plan_steps(loaded, start_from):
            click.echo(f"{state.status.value:<10} {state.step.name}: emu3 {' '.join(state.step.arguments)}")
        return
    done = run_pipeline(loaded, start_from, say)
    write_report(loaded, done, loaded.out / "report.html")
    say(f"look at {loaded.out / 'report.html'}")


@click.command()
@click.argument("out", default="demo")
@click.pass_context
def demo(context: click.Context, out: str) -> None:
    """The whole relay on embedded pictures and models: `emu3 run demo --out OUT`."""
    context.invoke(run, pipeline="demo", out=out)


def _program(context: click.Context) -> click.Group:
    """The command line as a whole: a step is one of its commands."""
    program = context.find_root().command
    assert isinstance(program, click.Group)
    return program
