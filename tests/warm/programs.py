"""Programs that end in every way, and one that says which signals it gets."""

ENDS = {
    "returns": "pass",
    "exits": "import sys; sys.exit(7)",
    "exits with words": "import sys; sys.exit('so it is')",
    "raises": "[].pop()",
    "kills itself": "import os; os.kill(os.getpid(), 9)",
    "crashes": "import os; os.abort()",
    "is terminated": "import os; os.kill(os.getpid(), 15)",
    "leaves by atexit": "import atexit; atexit.register(print, 'bye')",
    "waits for its threads": "import threading; threading.Timer(0.1, lambda: print('done')).start()",
    "has a hook": "import sys; sys.excepthook = lambda kind, *_: print(kind.__name__); {}[0]",
}
HEARS = """
import os, select, signal
heard, told = os.pipe()  # a signal that comes before anybody waits for it is not lost
os.set_blocking(told, False)
signal.set_wakeup_fd(told)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: None)
print("up", flush=True)
while select.select([heard], [], [], 20)[0]:
    print(signal.Signals(os.read(heard, 1)[0]).name, flush=True)
"""
