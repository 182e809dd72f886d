# What `WarmPython` runs in place of a Python; it is copied behind a line that says which interpreter.
"""Has the warm process fork, hands over all that this process has, and ends as the fork does.

Signals go to the fork and its children, as a launcher sends them to a process group. The fork is killed when
this process is. When only the launcher of this process is gone, the fork loses its parent.
"""

import json
import os
import select
import signal
import socket
import sys

PASSED_ON = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTSTP, signal.SIGCONT),
)
LAUNCHER_IS_GONE = 0
LOOK_S = 0.1


def main():
    launcher = os.getppid()
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "socket"))
    hand_over(server, launcher, mask)
    while True:
        ready, _, _ = select.select([server, heard], [], [], LOOK_S)
        try:
            if heard in ready:
                server.sendall(os.read(heard, 512))
            elif launcher != os.getppid():
                server.sendall(bytes([LAUNCHER_IS_GONE]))
                os._exit(0)
        except OSError:
            pass  # it has ended, and said how
        if server in ready:
            follow(server.recv(2))


def hand_over(server, launcher, mask):
    inherited = [fd for fd in map(int, os.listdir("/proc/self/fd")) if passed_down(fd)]
    request = {
        "arguments": program(sys.argv[0]) + sys.argv[1:],
        "environ": dict(os.environ),
        "folder": os.getcwd(),
        "descriptors": inherited,
        "processors": sorted(os.sched_getaffinity(0)),
        "mask": sorted(mask),
        "pid": os.getpid(),
        "launcher": launcher,
    }
    content = json.dumps(request).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "big")], inherited)
    server.sendall(content)


def program(path):
    """This file as Python, or as the command `silofl` beside it."""
    folder, name = os.path.split(os.path.realpath(path))
    return [os.path.join(folder, "python"), *(["-m", name] if name != "python" else [])]


def passed_down(descriptor):
    """Whether it is from whoever started this process: Python's own are not inheritable."""
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False  # that of the listing


def follow(message):
    """Do as the fork did: `x` it exited, `k` it was killed, `s` it stopped; nothing: the server is gone."""
    kind, number = (message[:1], message[1]) if len(message) == 2 else (b"x", 70)
    if kind == b"x":
        os._exit(number)
    if kind == b"k":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)


main()
