"""Runs a program that nobody has read: the child of `filigree eval --allow-code-execution`.

  python3 -I -S sandbox.py FOLDER CPU_SECONDS MEMORY_BYTES < nonce, newline, program

Before the program's first line it gives up: root's rights, time, memory, large files, writing outside FOLDER (Landlock, where
the kernel has it), and by seccomp the network, new processes, signals and tracing. Without seccomp it refuses. Prints the nonce when the program has run to its end, so that a program which merely exits has not passed.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

# x86-64, aarch64; None where an architecture has no such call.
DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
}  # fmt: skip
CLONE, CLONE3, CLONE_THREAD = (56, 220), (435, 435), 0x10000
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
EPERM, ENOSYS = 1, 38
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

libc = ctypes.CDLL(None, use_errno=True)


def call(name, result):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def filter_program(arch):
    """seccomp's classic BPF: another architecture kills, a denied call fails, a clone must be a thread."""
    load = lambda offset: (0x20, 0, 0, offset)
    equal = lambda value, yes, no: (0x15, yes, no, value)
    at_least = lambda value, yes, no: (0x35, yes, no, value)
    any_bit = lambda bits, yes, no: (0x45, yes, no, bits)
    give = lambda action: (0x06, 0, 0, action)
    program = [load(4), equal(AUDIT_ARCH[arch], 1, 0), give(KILL), load(0)]
    if arch == 0:  # the x32 calls have numbers of their own
        program += [at_least(0x40000000, 0, 1), give(ERRNO | EPERM)]
    for numbers in DENIED.values():
        if numbers[arch] is not None:
            program += [equal(numbers[arch], 0, 1), give(ERRNO | EPERM)]
    program += [equal(CLONE3[arch], 0, 1), give(ERRNO | ENOSYS)]
    program += [equal(CLONE[arch], 0, 3), load(16), any_bit(CLONE_THREAD, 1, 0), give(ERRNO | EPERM)]
    return program + [give(ALLOW)]


def forbid_calls(arch):
    program = b"".join(struct.pack("HBBI", *line) for line in filter_program(arch))
    buffer = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    call("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    call("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def forbid_writes(folder):
    """Landlock: reading anywhere, writing below the folder alone. Kernels before 5.13 have none."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    # write file, remove dir and file, make everything; refer from version 2, truncate from 3
    rights = (1 << 1) | sum(1 << bit for bit in range(4, 13))
    rights |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = ctypes.create_string_buffer(struct.pack("Q", rights))
    rules = call("landlock", libc.syscall(create, attributes, 8, 0))
    place = os.open(folder, os.O_PATH)
    beneath = ctypes.create_string_buffer(struct.pack("=Qi", rights, place))
    call("landlock", libc.syscall(add, rules, 1, beneath, 0))
    call("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    call("landlock", libc.syscall(restrict, rules, 0))
    os.close(place)
    os.close(rules)
    return True


def become_nobody():
    """Root becomes nobody, unless the standard library is then out of reach."""
    os.seteuid(65534)
    try:
        os.listdir(os.path.dirname(os.__file__))
    except OSError:
        return False
    finally:
        os.seteuid(0)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    return True


def confine(folder, cpu_seconds, memory):
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64"):
        raise OSError(f"no list of system calls for {machine}")
    os.chdir(folder)
    for limit, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    harmless = os.geteuid() != 0 or become_nobody()
    if not forbid_writes(folder) and not harmless:
        raise OSError("root's rights cannot be given up: the kernel has no Landlock, and python3 is for root alone")
    forbid_calls(("x86_64", "aarch64").index(machine))


def main():
    folder, cpu_seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    nonce, _, program = sys.stdin.buffer.read().partition(b"\n")
    done = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    try:
        confine(folder, cpu_seconds, memory)
    except OSError as error:
        os.write(2, f"sandbox: {error}".encode())
        os._exit(3)
    code = compile(program.decode("utf-8", "replace"), "answer.py", "exec")
    exec(code, {"__name__": "__main__"})
    os.write(done, nonce)


main()
