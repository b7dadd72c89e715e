"""AWS CloudTrail: log files of {"Records": […]} or a bare list, plain or gzipped.

Sign-ins, assumed roles, remote commands and reads of secrets become access events. The life of an EC2
instance with accelerators becomes an allocation and a placement: what it holds is looked up by its type in
aws_instances.csv. Times carry their zone.
"""

import csv
import functools
import gzip
import ipaddress
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from schemas.sources.mapping import Event, LeftOut, Mapping, Options, event

CallRecord = dict[str, Any]

ACCESS = {
    ("signin", "ConsoleLogin"): ("opened", "login"),
    ("signin", "SwitchRole"): ("opened", "assume_role"),
    ("sts", "AssumeRole"): ("opened", "assume_role"),
    ("sts", "AssumeRoleWithSAML"): ("opened", "assume_role"),
    ("sts", "AssumeRoleWithWebIdentity"): ("opened", "assume_role"),
    ("sts", "AssumeRoot"): ("opened", "assume_role"),
    ("sts", "GetFederationToken"): ("opened", "assume_role"),
    ("sts", "GetSessionToken"): ("opened", "login"),
    ("ssm", "StartSession"): ("opened", "shell"),
    ("ssm", "ResumeSession"): ("opened", "shell"),
    ("ssm", "TerminateSession"): ("closed", "shell"),
    ("ssm", "SendCommand"): ("call", "remote_command"),
    ("ssm", "GetParameter"): ("call", "secret_read"),
    ("ssm", "GetParameters"): ("call", "secret_read"),
    ("ssm", "GetParametersByPath"): ("call", "secret_read"),
    ("secretsmanager", "GetSecretValue"): ("call", "secret_read"),
    ("secretsmanager", "BatchGetSecretValue"): ("call", "secret_read"),
    ("ec2", "GetPasswordData"): ("call", "password_read"),
    ("ec2-instance-connect", "SendSSHPublicKey"): ("opened", "ssh"),
    ("ec2-instance-connect", "SendSerialConsoleSSHPublicKey"): ("opened", "serial_console"),
    ("bedrock", "InvokeModel"): ("call", "inference"),
    ("bedrock", "InvokeModelWithResponseStream"): ("call", "inference"),
    ("sagemaker", "InvokeEndpoint"): ("call", "inference"),
}
"""(service, call) to (action, operation)."""

INSTANCES = {"RunInstances", "StartInstances", "StopInstances", "TerminateInstances"}
NEEDED = ("eventID", "eventTime", "eventSource", "eventName")
_ACCELERATED = re.compile(r"(p|g|gr|trn|inf|dl|vt|f)[0-9]")
_DENIED = re.compile(r"AccessDenied|Unauthorized|NotAuthorized|Forbidden|AuthFailure")

REASONS = {
    "not_custody": "a call that is neither an access nor the life of an instance",
    "not_secret": "a parameter read without decryption, which gives no secret",
    "aws_service": "AWS itself acted, for nobody named",
    "call_failed": "the call failed for another reason than a denial, so nothing happened",
    "no_accelerators": "an instance type without accelerators",
    "instance_type_unknown": "an accelerated instance type that aws_instances.csv does not hold",
    "instance_unknown": "an instance whose start these files do not show: its accelerators are not known",
    "malformed": "a record without an event id, time, source, name or account, or of the wrong types",
}


@dataclass(frozen=True)
class Accelerators:
    """What one instance holds."""

    model: str
    count: int


@functools.cache
def instance_types() -> dict[str, Accelerators]:
    """What each accelerated instance type holds."""
    path = Path(__file__).with_name("aws_instances.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return {r["type"]: Accelerators(r["model"], int(r["accelerators"])) for r in csv.DictReader(file)}


def read(files: Sequence[Path], options: Options) -> Iterator[Event | LeftOut]:
    """Records are taken in the order of their times: an instance's start must come before its end."""
    calls: list[tuple[datetime, str, str, CallRecord]] = []
    for file in files:
        for number, record in enumerate(_records(file)):
            where = f"{file}: Records[{number}]"
            try:
                at = datetime.fromisoformat(record["eventTime"])
                assert at.tzinfo is not None
                assert all(isinstance(record[name], str) and record[name] for name in NEEDED)
                calls.append((at, record["eventID"], where, record))
            except (AssertionError, KeyError, TypeError, ValueError):
                yield LeftOut(where, "malformed")
    known: dict[str, Accelerators | None] = {}
    for at, _, where, record in sorted(calls, key=lambda call: call[:3]):
        try:
            yield from _call(where, at, record, known)
        except (AssertionError, AttributeError, KeyError, TypeError):
            yield LeftOut(where, "malformed")


MAPPING = Mapping("AWS CloudTrail log files", read, REASONS)


def _records(file: Path) -> list[Any]:
    try:
        content = file.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        parsed = json.loads(content)
        records = parsed["Records"] if isinstance(parsed, dict) else parsed
        assert isinstance(records, list)
    except (ValueError, KeyError, AssertionError, EOFError, RecursionError):
        raise UsageError(f'{file} is no CloudTrail log file: it has no list of "Records"') from None
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    return records


def _call(
    where: str, at: datetime, record: CallRecord, known: dict[str, Accelerators | None]
) -> Iterator[Event | LeftOut]:
    service = record["eventSource"].removesuffix(".amazonaws.com")
    name = record["eventName"]
    if service == "ec2" and name in INSTANCES:
        yield from _instances(where, at, record, known)
    elif (service, name) in ACCESS:
        yield _access(where, at, record, *ACCESS[service, name])
    else:
        yield LeftOut(where, "not_custody")


# Who, from where


def _account(record: CallRecord) -> str:
    account = record.get("recipientAccountId") or record["userIdentity"]["accountId"]
    assert isinstance(account, str)
    return account


def _principal(record: CallRecord) -> str | None:
    """`aws/<account>:<arn>` of the user, or of the role that was assumed: session names differ every time."""
    identity = record["userIdentity"]
    issuer = (identity.get("sessionContext") or {}).get("sessionIssuer") or {}
    name = issuer.get("arn") or identity.get("arn") or identity.get("principalId")
    if not name:
        return None
    account = issuer.get("accountId") or identity.get("accountId") or _account(record)
    return f"aws/{account}:{name}"


def _session(record: CallRecord) -> str | None:
    """A Session Manager session's id, else the assumed role's session."""
    for part in ("responseElements", "requestParameters"):
        if session := (record.get(part) or {}).get("sessionId"):
            return str(session)
    identity = record["userIdentity"]
    return identity.get("arn") if identity.get("type") == "AssumedRole" else None


def _mfa(record: CallRecord) -> bool | None:
    used = (record.get("additionalEventData") or {}).get("MFAUsed")
    attributes = (record["userIdentity"].get("sessionContext") or {}).get("attributes") or {}
    said = used if used is not None else attributes.get("mfaAuthenticated")
    return {"Yes": True, "true": True, "No": False, "false": False}.get(str(said))


def _ip(record: CallRecord) -> str | None:
    """The caller's address; a service's name is none."""
    try:
        return str(ipaddress.ip_address(record.get("sourceIPAddress") or ""))
    except ValueError:
        return None


# Access


def _access(where: str, at: datetime, record: CallRecord, action: str, operation: str) -> Event | LeftOut:
    of_parameter = record["eventName"].startswith("GetParameter")
    if of_parameter and not (record.get("requestParameters") or {}).get("withDecryption"):
        return LeftOut(where, "not_secret")
    if record["userIdentity"].get("type") == "AWSService" or _principal(record) is None:
        return LeftOut(where, "aws_service")
    login = (record.get("responseElements") or {}).get(record["eventName"])
    error = record.get("errorCode")
    if login == "Failure" or (error and _DENIED.search(error)):
        action = "denied"
    elif error:
        return LeftOut(where, "call_failed")
    return _access_event(at, record, action, operation)


def _access_event(at: datetime, record: CallRecord, action: str, operation: str) -> Event:
    address = _ip(record)
    return event(
        "access",
        at,
        event_id=record["eventID"],
        source=f"cloudtrail/{_account(record)}",
        principal=_principal(record),
        action=action,
        session_id=_session(record),
        method="remote" if address else None,  # AWS has no other way in; a service in between is not known
        source_ip=address,
        mfa=_mfa(record),
        operation=operation,
    )


# Instances


def _instances(
    where: str, at: datetime, record: CallRecord, known: dict[str, Accelerators | None]
) -> Iterator[Event | LeftOut]:
    """Each instance of a call apart, since each is its own allocation."""
    error = record.get("errorCode")
    if record["eventName"] == "RunInstances":
        kind = (record.get("requestParameters") or {}).get("instanceType") or ""
        if error and _DENIED.search(error) and kind in instance_types():
            yield _access_event(at, record, "denied", "run_instances")
            return
    if error:
        yield LeftOut(where, "call_failed")
        return
    for item in ((record.get("responseElements") or {}).get("instancesSet") or {})["items"]:
        instance = item["instanceId"]
        assert isinstance(instance, str)
        if record["eventName"] == "RunInstances":
            kind = item.get("instanceType") or record["requestParameters"]["instanceType"]
            known.pop(instance, None)
            if kind in instance_types() or not _ACCELERATED.match(kind):
                known[instance] = instance_types().get(kind)
            else:
                yield LeftOut(where, "instance_type_unknown")
                continue
        held = known.get(instance)
        if held is not None:
            starts = record["eventName"] in ("RunInstances", "StartInstances")
            yield from _life(at, record, instance, held, starts)
        else:
            yield LeftOut(where, "no_accelerators" if instance in known else "instance_unknown")


def _life(
    at: datetime, record: CallRecord, instance: str, accelerators: Accelerators, starts: bool
) -> Iterator[Event]:
    account = _account(record)
    principal = _principal(record)
    shared = {
        "source": f"cloudtrail/{account}",
        "principal": principal,
        "allocation_id": f"aws/{account}/{instance}",
        "site_id": f"aws/{record['awsRegion']}",
        "node": instance,
    }
    yield event(
        "allocation",
        at,
        event_id=f"{record['eventID']}/{instance}",
        **shared,
        action="allocated" if starts else "released",
        model=accelerators.model,
        accelerators=accelerators.count,
        requested_by=principal if starts else None,
    )
    yield event(
        "placement",
        at,
        event_id=f"{record['eventID']}/{instance}/placement",
        **shared,
        action="started" if starts else "stopped",
        workload_id=f"aws/{account}/{instance}",
    )
