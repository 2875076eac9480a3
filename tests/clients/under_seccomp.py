"""Becomes another program under a container runtime's seccomp profile:  under_seccomp.py PROFILE.json PROGRAM ARGS...

The profile goes through libseccomp as a container runtime would send it, so what the filter refuses here it refuses there.
"""

import ctypes
import json
import os
import sys

ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}
OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
UNKNOWN_CALL = -1


class Condition(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def install(profile: dict) -> None:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    default = ACTIONS[profile["defaultAction"]] | profile["defaultErrnoRet"]
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    for rule in profile["syscalls"]:
        action = ACTIONS[rule["action"]] | rule.get("errnoRet", 0)
        conditions = [
            Condition(arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo", 0))
            for arg in rule.get("args", [])
        ]
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == UNKNOWN_CALL:  # an older library than the profile: runtimes skip it too
                continue
            array = (Condition * len(conditions))(*conditions)
            added = library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(conditions), array)
            if added != 0:
                raise OSError(-added, f"rule for {name}")
    loaded = library.seccomp_load(context)
    if loaded != 0:
        raise OSError(-loaded, "loading the filter")


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        install(json.load(file))
    os.execvp(sys.argv[2], sys.argv[2:])
