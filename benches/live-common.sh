# Sourced by the scripts about online migration: a server `$server` whose disk is the loop device
# `$loop`, its receiver and its agent, with everything of theirs in `$folder` and `$run`.
# shellcheck shell=bash disable=SC2154

agent='' receiver='' loop='' bpf=''
run=/run/carreto-$server

begin() { # begin: from here on everything goes away with the script
    trap clean EXIT
    mkdir -p "$folder"
    mountpoint -q /sys/fs/bpf || { mount -t bpf bpf /sys/fs/bpf; bpf=mounted; }
}

end() { # end PROCESS
    [ -z "$1" ] || { kill -TERM "$1" 2> /dev/null && wait "$1"; } || true
}

clean() {
    end "$agent"
    end "$receiver"
    "$carreto" agent cleanup -c "$folder/agent.toml" > /dev/null 2>&1 || true
    leave_system 2> /dev/null || true
    [ -z "$loop" ] || losetup -d "$loop"
    [ -z "$bpf" ] || umount /sys/fs/bpf
    rm -rf "$folder" "$run"
}

leave_system() { :; } # what a script has set up besides

receive() { # receive ADDRESS [OPTION...]: starts the receiver and writes the agent's configuration
    local address=$1
    shift
    cat > "$folder/receive.toml" << T
listen = '$address'
advertise = ['$address']
state = 'receiver'
[[server]]
name = '$server'
[[server.disk]]
source = '$loop'
target = '$folder/target.img'
T
    "$carreto" receive "$@" -c "$folder/receive.toml" > "$folder/receiver.out" &
    receiver=$!
    until grep -q '^listening' "$folder/receiver.out"; do sleep 0.1; done
    printf "token = '%s'\ndisks = ['%s']\nrun = '%s'\n%s\n" \
        "$(sed -n "s/^token for $server: //p" "$folder/receiver.out")" "$loop" "$run" \
        "${MORE:-}" > "$folder/agent.toml"
}

free_address() {
    python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print("127.0.0.1:%d" % s.getsockname()[1])'
}

follow() { # starts the agent and waits until it follows the disk
    "$carreto" agent run -c "$folder/agent.toml" > /dev/null 2>> "$folder/agent.err" &
    agent=$!
    # What the last agent left behind says the same.
    until "$carreto" agent status -c "$folder/agent.toml" -o json 2> /dev/null | python3 -c '
import json, sys
report = json.load(sys.stdin)
sys.exit(not (report["agent_running"] and report["state"] in ("CONTINUOUS", "READY")))' \
        2> /dev/null; do
        kill -0 "$agent" || { tail "$folder/agent.err"; exit 1; }
        sleep 0.2
    done
}
