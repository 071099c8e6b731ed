"""`postroom audit` says what does not add up in a ledger; `postroom repair` mends what the ledger entries tell."""
# ruff: noqa: FBT002  # typer gives options by name

import asyncio
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from console.commands.options import JsonOption, TenantOption, duration
from console.exits import Code
from console.output import err, out, print_json, safe
from console.session import Session, run, session
from schemas.ids import TenantId
from workers.errors import RefusedError
from workers.mailbox.audit import LOOKS, audit
from workers.mailbox.finding import Finding
from workers.mailbox.repair import repair

EVERY_TENANT = "all"
AUDIT_HELP = """Look whether a tenant's ledger adds up: every accepted message in exactly one state, and every mailbox,
lease, ready mark, list and counter in agreement. It changes nothing, work may go on, and it exits with 1 where
something is wrong. What is found is looked at again before it is told.

[bold]Examples[/bold]

  postroom audit -t acme

  postroom audit -t all --watch 60
"""
REPAIR_HELP = """Mend what [bold]postroom audit[/bold] finds, where the ledger entries tell what is right: put agents
and deliveries where they belong, drop marks of nothing, count again. It deletes no message.

[bold]Example[/bold]

  postroom repair -t acme --dry-run
"""

WatchOption = Annotated[
    float | None,
    typer.Option("--watch", parser=duration, metavar="TIME", help="Look again and again, with this pause: 60, 5m."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("audit", help=AUDIT_HELP, rich_help_panel="Operate")(audit_)
    app.command("repair", help=REPAIR_HELP, rich_help_panel="Operate")(repair_)


@dataclass(frozen=True, slots=True)
class Audited:
    """What was found in one tenant."""

    tenant: TenantId
    findings: list[Finding]


def audit_(
    tenant: Annotated[
        str | None, typer.Option("--tenant", "-t", help="The tenant, or `all`; POSTROOM_TENANT says it, too.")
    ] = None,
    watch: WatchOption = None,
    as_json: JsonOption = False,
) -> None:
    run(_audit(tenant, watch, as_json=as_json))


def repair_(
    tenant: TenantOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be mended, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    run(_repair(tenant, dry_run=dry_run, yes=yes, as_json=as_json))


async def _audit(tenant: str | None, watch: float | None, *, as_json: bool) -> None:
    """With `watch`, until somebody ends it."""
    async with session() as opened:
        while True:
            found = [await _one(opened, one) for one in await _tenants(opened, tenant)]
            wrong = any(one.findings for one in found)
            if as_json:
                print_json([{"tenant": one.tenant, "findings": [_document(x) for x in one.findings]} for one in found])
            else:
                _show(found)
            if watch is None:
                raise typer.Exit(Code.FAILED if wrong else Code.OK)
            await asyncio.sleep(watch)


async def _tenants(opened: Session, tenant: str | None) -> list[TenantId]:
    if tenant == EVERY_TENANT:
        return sorted(await opened.tenants.all_ids(opened.operator))
    return [(await opened.tenant(tenant)).tenant]


async def _one(opened: Session, tenant: TenantId) -> Audited:
    context = opened.operator.for_tenant(tenant)
    rules = opened.settings.rules()
    return Audited(tenant, await audit(context, opened.client, opened.resources.clock, rules=rules))


def _show(found: list[Audited]) -> None:
    for one in found:
        if not one.findings:
            out().print(Text.assemble((one.tenant, "bold"), " adds up"))
        for finding in one.findings:
            mends = "" if finding.mend else "  (no repair: a person has to look)"
            line = Text.assemble((one.tenant, "bold"), "  ", (finding.kind, "red"), "  ", safe(finding.sentence))
            out().print(line.append(mends, style="dim"), soft_wrap=True)


async def _repair(tenant: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    async with session() as opened:
        context = await opened.tenant(tenant)
        found = (await _one(opened, context.tenant)).findings
        mendable = [one for one in found if one.mend]
        if dry_run:
            _tell(context.tenant, [], found, as_json=as_json, dry_run=True)
            raise typer.Exit(Code.FAILED if found else Code.OK)
        if mendable and not yes:
            _confirm(context.tenant, found, len(mendable))
        clock, scripts, rules = opened.resources.clock, opened.resources.scripts, opened.settings.rules()
        left = await repair(context, scripts, clock, found, rules=rules, looks=LOOKS) if mendable else found
        still = {one.key for one in left}
        _tell(context.tenant, [one for one in mendable if one.key not in still], left, as_json=as_json, dry_run=False)
        raise typer.Exit(Code.FAILED if left else Code.OK)


def _confirm(tenant: TenantId, found: list[Finding], mendable: int) -> None:
    if not sys.stdin.isatty():
        raise RefusedError(f"{mendable} findings can be mended: give --yes to do it, or --dry-run to look")
    _show([Audited(tenant, found)])
    if not typer.confirm(f"mend {mendable} of {len(found)}?", err=True):
        raise RefusedError("nothing was mended")


def _tell(tenant: TenantId, mended: list[Finding], left: list[Finding], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        rows = {"mended": [_document(one) for one in mended], "left": [_document(one) for one in left]}
        print_json({"tenant": tenant, "dry_run": dry_run, **rows})
        return
    for one in mended:
        out().print(
            Text.assemble((tenant, "bold"), "  ", ("mended", "green"), "  ", safe(one.sentence)), soft_wrap=True
        )
    _show([Audited(tenant, left)])
    if dry_run:
        number = sum(one.mend is not None for one in left)
        err.print(f"{number} of {len(left)} would be mended; nothing was changed", style="dim")


def _document(finding: Finding) -> dict[str, Any]:
    document = asdict(finding)
    return {"kind": document["kind"], "id": document["id"], "sentence": document["sentence"], "mend": finding.mend}
