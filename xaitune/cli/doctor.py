"""The command that examines the machine: doctor."""

import dataclasses

from xaitune.cli.options import Job, command


@command("doctor")
def examine_machine(job: Job) -> None:
    """Check this machine: what is missing, and what will be slow."""
    import pandas as pd

    from xaitune.doctor import examine, summary, versions

    known = versions()
    job.ui.say(", ".join(f"{name} {version}" for name, version in known.items()))
    findings = examine(job.runs_dir)
    rows = [[f.what, f.state, f.found, f.advice] for f in findings]
    job.ui.table(pd.DataFrame(rows, columns=["", "state", "found", "what to do"]).set_index(""))
    job.ui.say(summary(findings))
    records = [dataclasses.asdict(finding) for finding in findings]
    job.ui.finish([], "", versions=known, findings=records, summary=summary(findings))
