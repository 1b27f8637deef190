"""Runs commands for the machine outside, one after the other, as lines of JSON over a port.

A command that is not done after its limit is killed together with what it started.
"""

import json
import os
import signal
import subprocess
import time

PORT = "/dev/virtio-ports/carreto.shell"


def open_port():
    while not os.path.exists(PORT):
        time.sleep(0.1)
    return os.open(PORT, os.O_RDWR)


def run(command, limit):
    child = subprocess.Popen(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=os.setsid,
    )
    try:
        output = child.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output = child.communicate()[0] + b"\nkilled at its limit\n"
    return {"exit": child.returncode, "output": output.decode("utf-8", "replace")}


def answer(port, line):
    request = json.loads(line.decode())
    reply = run(request["command"], request["limit"])
    reply["id"] = request["id"]
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


def main():
    port = open_port()
    pending = b""
    while True:
        chunk = os.read(port, 1 << 16)
        if not chunk:
            # Nobody is connected outside.
            time.sleep(0.1)
        pending += chunk
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            answer(port, line)


main()
