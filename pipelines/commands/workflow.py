"""Commands that run pipelines. Heavy imports wait until a command runs."""

from __future__ import annotations

import click

from pipelines.commands.options import say


@click.command()
@click.argument("pipeline", metavar="PIPELINE.yaml")
@click.option(
    "--out", metavar="DIR", show_default="`out` of the file, else its name", help="Folder that the steps write to."
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a variable, or an option as STEP.OPTION; may be repeated.",
)
@click.option("--from", "start_from", metavar="STEP", help="Run this step, and all steps that need it, again.")
@click.option("--dry-run", is_flag=True, help="Only show what would run.")
@click.pass_context
def run(
    context: click.Context,
    pipeline: str,
    out: str | None,
    changes: tuple[str, ...],
    start_from: str | None,
    dry_run: bool,
) -> None:
    """Run the steps of a pipeline that are not done or have changed.

    The same command resumes an interrupted run. PIPELINE.yaml is a file, or the name of a packaged example: demo,
    demo-emu35, tokenise-only, text-to-image-ascend or batch-generation.
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
        for state in plan_steps(loaded, start_from, is_dry_run=True):
            click.echo(f"{state.status.value:<10} {state.step.name}: emu3 {' '.join(state.step.arguments)}")
        return
    done = run_pipeline(loaded, start_from, say)
    write_report(loaded, done, loaded.out / "report.html")
    say(f"report: {loaded.out / 'report.html'}")


@click.command()
@click.argument("out", default="demo")
@click.pass_context
def demo(context: click.Context, out: str) -> None:
    """Run every stage on embedded pictures and models, as `emu3 run demo --out OUT` does."""
    context.invoke(run, pipeline="demo", out=out)


def _program(context: click.Context) -> click.Group:
    """The group of all commands: a step of a pipeline is one of them."""
    program = context.find_root().command
    assert isinstance(program, click.Group)
    return program
