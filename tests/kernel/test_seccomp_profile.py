"""A seccomp profile is read strictly and means one thing; what libseccomp makes of it is that, on every call."""

from __future__ import annotations

import errno
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchns.errors import HostError, UserError
from batchns.kernel.seccomp import compile as compiler
from batchns.kernel.seccomp import simulate
from batchns.kernel.seccomp.load import load
from batchns.kernel.seccomp.profile import ALLOW, ERRNO, KILL_PROCESS, Profile, default, parse, verdict

EPERM = ERRNO | errno.EPERM
ENOSYS = ERRNO | errno.ENOSYS
ALLOW_ALL = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
pyseccomp = pytest.importorskip("pyseccomp", exc_type=RuntimeError, reason="needs libseccomp2")


def profile(*entries: dict[str, object], **top: object) -> Profile:
    return parse(json.dumps({**ALLOW_ALL, **top, "syscalls": list(entries)}), "p.json")


def answer(program: bytes, name: str, *arguments: int, arch: int | None = None) -> int:
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    padded = [*(argument % 2**64 for argument in arguments), 0, 0, 0, 0, 0, 0][:6]
    return simulate.run(simulate.instructions(program), arch or pyseccomp.system_arch(), number, padded)


@pytest.fixture(scope="module")
def program() -> bytes:
    return compiler.compiled(default())


ENTRY = {"names": ["mount"], "action": "SCMP_ACT_ERRNO"}
WRONG = [
    ({"defaultAction": "SCMP_ACT_MAYBE"}, r'\$\.defaultAction: unknown: "SCMP_ACT_MAYBE"'),
    ({"defaultAction": "SCMP_ACT_NOTIFY"}, r'\$\.defaultAction: unknown: "SCMP_ACT_NOTIFY"'),
    ({"defaultAction": True}, r"\$\.defaultAction: unknown: bool"),
    ({"archMap": []}, r'\$: unknown key "archMap"'),
    ({"architectures": ["SCMP_ARCH_VAX"]}, r'\$\.architectures\[0\]: unknown: "SCMP_ARCH_VAX"'),
    ({"defaultErrnoRet": 1}, r"\$\.defaultErrnoRet: SCMP_ACT_ALLOW returns no errno"),
    ({"syscalls": {}}, r"\$\.syscalls: not a list"),
    ({"syscalls": [[]]}, r"\$\.syscalls\[0\]: not an object"),
    ({"syscalls": [{"names": ["mount"]}]}, r"\$\.syscalls\[0\]: action is missing"),
    ({"syscalls": [ENTRY | {"includes": {}}]}, r'\$\.syscalls\[0\]: unknown key "includes"'),
    ({"syscalls": [ENTRY | {"names": []}]}, r"\$\.syscalls\[0\]\.names: no system call is named"),
    ({"syscalls": [ENTRY | {"names": ["a", 1]}]}, r"\$\.syscalls\[0\]\.names\[1\]: no name of a system call"),
    ({"syscalls": [ENTRY | {"errnoRet": 0}]}, r"\$\.syscalls\[0\]\.errnoRet: no integer from 1 to 4095"),
    ({"syscalls": [ENTRY | {"errnoRet": True}]}, r"\$\.syscalls\[0\]\.errnoRet: no integer"),
]
WRONG_ARGUMENTS = [
    ({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}, r"index: no integer from 0 to 5"),
    ({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}, r"value: no integer from 0"),
    ({"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}, r"value: no integer from 0"),
    ({"index": 0, "value": 0, "op": "SCMP_CMP_LIKE"}, r'op: unknown: "SCMP_CMP_LIKE"'),
    ({"index": 0, "value": 1, "op": "SCMP_CMP_MASKED_EQ"}, r"a mask without valueTwo"),
    ({"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}, r"never true"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_is_not_understood_is_refused_with_its_path(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=r"p\.json: " + message):
        parse(json.dumps(ALLOW_ALL | change), "p.json")


@pytest.mark.parametrize(("condition", "message"), WRONG_ARGUMENTS)
def test_a_comparison_that_is_not_understood_is_refused(condition: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=r"p\.json: \$\.syscalls\[0\]\.args\[0\]\S* " + f".*{message}|{message}"):
        profile(ENTRY | {"args": [condition]})


def test_an_argument_that_is_compared_twice_is_refused() -> None:
    """Runtimes differ in whether both, or one of them, must hold."""
    twice = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    with pytest.raises(UserError, match=r"\$\.syscalls\[0\]\.args: an argument is compared twice"):
        profile(ENTRY | {"args": twice})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"p\.json:1: no JSON"),
        ("\n\n{,}", r"p\.json:3: no JSON"),
        ('{"syscalls": [], "syscalls": []}', r'key "syscalls" appears twice'),
        ("[" * 100_000, r"p\.json"),
        ("[]", r"\$: not an object"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text, "p.json")


def test_the_strictest_of_the_matching_entries_decides_whatever_their_order() -> None:
    entries = [
        {"names": ["chmod"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
    ]
    for order in (entries, entries[::-1]):
        read = profile(*order, defaultAction="SCMP_ACT_LOG")
        for arguments, wanted in {(0, 0): ALLOW, (0, 7): EPERM, (9, 7): EPERM}.items():
            assert verdict(read.rules, read.default, arguments) == wanted
            assert answer(compiler.compiled(read), "chmod", *arguments) == wanted


def test_names_that_this_libseccomp_does_not_know_are_skipped() -> None:
    read = profile({"names": ["call_of_tomorrow", "mount"], "action": "SCMP_ACT_ERRNO"})
    assert answer(compiler.compiled(read), "mount") == EPERM


def test_a_profile_for_other_machines_is_refused() -> None:
    with pytest.raises(UserError, match=r"p\.json: \$\.architectures: not for this machine"):
        compiler.compiled(profile(architectures=["SCMP_ARCH_X86"]))


@pytest.mark.parametrize("name", compiler.INIT_NEEDS)
def test_a_profile_that_refuses_what_init_needs_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=rf"p\.json: {name} is refused: the job's init needs it"):
        compiler.compiled(profile({"names": [name], "action": "SCMP_ACT_ERRNO"}))


def test_a_profile_that_refuses_clone_for_namespaces_only_is_accepted() -> None:
    newuser = [{"index": 0, "value": 0x10000000, "valueTwo": 0x10000000, "op": "SCMP_CMP_MASKED_EQ"}]
    program = compiler.compiled(profile({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": newuser}))
    assert answer(program, "clone", 0x10000011) == EPERM
    assert answer(program, "clone", 0x11) == ALLOW


def test_entries_of_which_libseccomp_drops_some_are_noticed() -> None:
    """Two errnos for one call: libseccomp keeps the entry without conditions only, which is the weaker filter."""
    with pytest.raises(UserError, match=r"p\.json: mount\(.*\): libseccomp makes something else"):
        compiler.compiled(
            profile(
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO"},
                ENTRY | {"action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            )
        )


def test_an_inequality_before_the_last_argument_is_refused() -> None:
    """libseccomp 2.5.4 would not return from two entries like this one."""
    args = [{"index": 2, "value": 1, "op": "SCMP_CMP_GT"}, {"index": 1, "value": 1, "op": "SCMP_CMP_LE"}]
    with pytest.raises(UserError, match=r"p\.json: an entry for mount has an inequality before its last argument"):
        compiler.compiled(profile(ENTRY | {"args": args}))


@pytest.mark.parametrize(
    ("failure", "hint"),
    [(RuntimeError(), "apt-get install libseccomp2"), (ImportError(), "pip install pyseccomp")],
)
def test_a_missing_library_is_said_with_what_to_type(
    failure: Exception, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = default()

    def fail(name: str) -> None:
        raise failure

    with monkeypatch.context() as patched, pytest.raises(HostError, match=hint):
        patched.setattr(compiler.importlib, "import_module", fail)
        compiler.compiled(read)


MASK32 = 0xFFFFFFFF
TABLE = [
    ("openat", (0, 0, 0o101, 0o644), ALLOW),
    ("openat", (0, 0, 0, 0o6777), ALLOW),  # no O_CREAT: the mode is whatever was in the register
    ("openat", (0, 0, 0o101, 0o4755), EPERM),
    ("openat", (0, 0, 0o101, 0o2755), EPERM),
    ("openat", (0, 0, 0o20200002, 0o4755), EPERM),
    ("openat", (0, 0, 0o101 | 1 << 40, 0o4755 | 1 << 40), EPERM),
    ("fchmod", (3, 0o1777), ALLOW),
    ("fchmod", (3, 0o6755 | 1 << 32), EPERM),
    ("fchmodat", (0, 0, 0o2755), EPERM),
    ("mkdirat", (0, 0, 0o2775), EPERM),
    ("mknodat", (0, 0, 0o104755), EPERM),
    ("openat2", (), ENOSYS),
    ("clone", (0x4111,), ALLOW),
    ("clone", (0x3D0F00,), ALLOW),  # what pthread_create(3) asks for
    ("clone", (0x20000011 | 1 << 63,), EPERM),
    ("clone3", (), ENOSYS),
    ("unshare", (0x400,), ALLOW),
    ("unshare", (0x80,), EPERM),
    ("setns", (), EPERM),
    ("ioctl", (0, 0x5412), EPERM),
    ("ioctl", (0, 0x5412 | 1 << 32), EPERM),
    ("ioctl", (0, 0x541C | 0xFFFFFFFF << 32), EPERM),
    ("ioctl", (0, 0x5401), ALLOW),
    ("ioctl", (0, -0x7FFBABD0), ALLOW),  # TIOCGPTN as a sign-extended int
    ("socket", (1, 1, 0), ALLOW),
    ("socket", (10, 2, 17), ALLOW),
    ("socket", (16, 3, 0), ALLOW),
    ("socket", (16, 3, 16), ERRNO | errno.EPROTONOSUPPORT),
    ("socket", (2, 1, 132), ERRNO | errno.EPROTONOSUPPORT),
    ("socketpair", (1, 1, 0), ALLOW),
    ("socketpair", (30, 1, 0), ERRNO | errno.EAFNOSUPPORT),
    ("personality", (MASK32,), ALLOW),
    ("personality", (0x0400000,), ENOSYS),
    *[(name, (), EPERM) for name in ("mount", "umount2", "pivot_root", "bpf", "perf_event_open", "open_by_handle_at")],
    *[(name, (), ENOSYS) for name in ("io_uring_setup", "keyctl", "add_key", "userfaultfd", "fsopen", "open_tree")],
    *[(name, (), ALLOW) for name in ("ptrace", "process_vm_readv", "seccomp", "mbind", "sched_setaffinity")],
]


@pytest.mark.parametrize(("name", "arguments", "wanted"), TABLE)
def test_the_default_profile(program: bytes, name: str, arguments: tuple[int, ...], wanted: int) -> None:
    assert answer(program, name, *arguments) == wanted


def test_the_default_profile_allows_four_families_of_sockets(program: bytes) -> None:
    allowed = {family for family in range(1000) if answer(program, "socket", family, 1, 0) == ALLOW}
    assert allowed == {1, 2, 10, 16}
    for family in (*range(64), 40 | 1 << 32, -1):
        assert answer(program, "socket", family, 1, 0) in (ALLOW, ERRNO | errno.EAFNOSUPPORT)


def test_calls_of_other_architectures_end_the_process(program: bytes) -> None:
    code = simulate.instructions(program)
    for arch in (0x40000003, 0x40000028, 0xC00000B7, 0xC000003E):  # i386, arm, aarch64, x86_64
        if arch != pyseccomp.system_arch():
            assert simulate.run(code, arch, 20, (0,) * 6) == KILL_PROCESS
    if pyseccomp.system_arch() == pyseccomp.Arch.X86_64:
        assert simulate.run(code, pyseccomp.system_arch(), 0x40000000 | 39, (0,) * 6) == KILL_PROCESS


def test_unknown_calls_do_not_exist(program: bytes) -> None:
    code = simulate.instructions(program)
    for number in (1023, 999_999):
        assert simulate.run(code, pyseccomp.system_arch(), number, (0,) * 6) == ENOSYS


CONDITION = st.fixed_dictionaries(
    {
        "value": st.sampled_from([1, 2, 0x10, 0x100000001]),
        "op": st.sampled_from(["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_GT", "SCMP_CMP_LE"]),
    }
)
ENTRIES = st.lists(
    st.tuples(st.booleans(), st.dictionaries(st.integers(0, 2), CONDITION, max_size=2)), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ENTRIES, st.integers())
def test_a_program_that_is_accepted_does_what_the_profile_says(
    entries: list[tuple[bool, dict[int, dict[str, object]]]], seed: int
) -> None:
    """Random entries for one call: either they are refused, or random calls get the profile's verdict."""
    read = profile(
        *(
            {
                "names": ["mount"],
                "action": "SCMP_ACT_ALLOW" if allow else "SCMP_ACT_ERRNO",
                "args": [{"index": index, **condition} for index, condition in conditions.items()],
            }
            for allow, conditions in entries
        ),
    )
    try:
        made = compiler.compiled(read)
    except UserError as error:
        assert "libseccomp makes something else" in str(error) or "has an inequality" in str(error)
        return
    choose = random.Random(seed)
    values = [0, 1, 2, 3, 0xF, 0x10, 0x11, 0x100000000, 0x100000001, 0x100000010, 2**64 - 1]
    for _ in range(20):
        arguments = (*choose.choices(values, k=3), 0, 0, 0)
        assert answer(made, "mount", *arguments) == verdict(read.rules, read.default, arguments)


def test_bytes_that_are_no_program_are_refused_before_the_kernel_sees_them() -> None:
    for program in (b"", b"1234567", bytes(8 * 4097)):
        with pytest.raises(ValueError, match="no seccomp program"):
            load(program)
