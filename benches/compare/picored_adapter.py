"""picored for a measuring harness of gossip agents, and serf with its traffic encrypted as picored's is.

The harness gives every node a network namespace of its own and brings `harness`, `adapters` and `run`; `compare/run`
puts its folder on the path. Run as a program, this takes the arguments of the harness's own `run.py`. With
MEASURE_AFTER_LEAVE set, another node leaves right before each kill.
"""
import base64, calendar, json, os, random, re, secrets, subprocess, time

import harness
from adapters import ADAPTERS, Adapter, Serf

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FIXTURES = os.path.join(ROOT, "handlers-wasm", "dist", "fixtures")
EVENT = {"member-up": "join", "member-down": "failed", "member-left": "left"}
EVENT_ID = re.compile(r"(member-(?:up|down|left))/([^/]+)/")


def microseconds(timestamp):
    """Since 1970, of 2026-01-31T12:00:00.123456Z"""
    whole, part = timestamp.rstrip("Z").split(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) * 10**6 + int(part.ljust(6, "0")[:6])


class Picored(Adapter):
    name = "picored"
    needs_app = True
    hook_down = {"failed"}
    bin = os.environ.get("MEASURE_PICORED", os.path.join(ROOT, "target", "release", "picored"))

    def path(self, c, i, ending):
        return os.path.join(c.dir, f"n{i}.{ending}")

    def command(self, c, i, n):
        key = os.path.join(c.dir, "key")
        if not os.path.exists(key):
            made = subprocess.run([self.bin, "keygen"], check=True, stdout=subprocess.PIPE).stdout
            with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(made)
        seeds = ", ".join(f'"{ip}:7946"' for ip in self.seeds(c, i))
        with open(self.path(c, i, "toml"), "w") as file:
            file.write(f"""[node]
name = "n{i}"
bind = "{c.net.ip(i)}:7946"
state_dir = "{self.path(c, i, 'state')}"
admin_socket = "{self.path(c, i, 'sock')}"

[cluster]
name = "compare"
seeds = [{seeds}]
key_file = "{key}"
profile = "{os.environ.get('MEASURE_PROFILE', 'lan')}"

[[app]]
name = "www"
publish = ["{c.net.ip(i)}"]
check = {{ http = "http://127.0.0.1:8080/", expect_body = "OK" }}
interval = "10s"

[[app]]
name = "port"
publish = ["{c.net.ip(i)}"]
check = {{ tcp = "127.0.0.1:8080" }}
interval = "10s"
""")
            # One that is told of members, whose start is looked for on every node, and two that wait for an application.
            for name, events, run_on in [("ok", "member-*", "every"), ("echo", "app-*", "one"), ("state", "app-*", "one")]:
                file.write(f"""
[[handler]]
name = "{name}"
source = "file:{FIXTURES}/{name}.wasm"
on = ["{events}"]
run_on = "{run_on}"
""")
        return [self.bin, "run", "--log-format", "json", "--config", self.path(c, i, "toml")]

    def parse(self, c, i, line):
        try:
            said = json.loads(line)
        except ValueError:
            return None
        what = said.get("target"), said.get("message")
        if what == ("picored::delivery", "started"):
            self.note_start(c, i, said)
        elif what == ("picored::node", "joined"):
            self.note_members(c, i)
        elif what[0] == "picored::event" and what[1] in EVENT:
            return EVENT[what[1]], said["member"]
        return None

    def note_start(self, c, i, said):
        """A handler cannot write a file, so the daemon's own line goes to the log of handlers."""
        event = EVENT_ID.match(said["event_id"])
        if event:
            with open(c.hlog, "a") as log:
                log.write(f"{microseconds(said['timestamp'])} {i} {EVENT[event[1]]} {event[2]}\n")

    def note_members(self, c, i):
        """Whom a newcomer finds is no event to it: it is asked."""
        found = self.members(c, i)
        now = time.time_ns()
        with c.lock:
            for name, state in found.items():
                if state == "alive" and name not in c.known[i]:
                    c.events.append((now, i, "join", name))
                    c.known[i].add(name)

    def parse_hook(self, c, line):
        at, node, kind, subject = line.split()
        return int(at), int(node), kind, subject

    def members(self, c, i, timeout=5):
        asked = subprocess.run([self.bin, "members", "--json", "--socket", self.path(c, i, "sock")], timeout=timeout,
                               check=True, stdout=subprocess.PIPE)
        return {member["name"]: member["state"] for member in json.loads(asked.stdout)}


class EncryptedSerf(Serf):
    extra = ["-encrypt=" + base64.b64encode(secrets.token_bytes(16)).decode()]


ADAPTERS.update({"picored": Picored, "serf": EncryptedSerf})


def kill_after_leave(c, n, trials=5):
    """As the harness's kill, but another node has left just before: what is told of that must not slow this down."""
    out = []
    for _ in range(trials):
        left, victim = random.sample([x for x in c.alive() if x != 1], 2)
        observers = [x for x in c.alive() if x not in (left, victim)]
        begun = time.time_ns()
        c.a.leave(c, left)
        c.wait_events({"left"}, c.a.subject(c, left), observers, begun, 60)
        killed = c.kill9(victim)
        name = c.a.subject(c, victim)
        known = c.wait_events({"failed"}, name, observers, killed, 180)
        hooks = c.wait_hooks(c.a.hook_down, name, observers, killed, 15)
        known = sorted((at - killed) / 1e9 for at in known.values())
        hooks = sorted((at - killed) / 1e9 for at in hooks.values())
        out.append({"first": min(known, default=None), "all": known[-1] if len(known) == len(observers) else None,
                    "hook_first": min(hooks, default=None),
                    "hook_all": hooks[-1] if len(hooks) == len(observers) else None})
        for node in (left, victim):
            if c.p[node].poll() is None:
                c.p[node].wait(15)
            again = c.start(node, n)
            c.wait_events({"join"}, c.a.subject(c, node), observers, again, 90)
        c.wait_full(n, 60)
        time.sleep(c.a.settle)
    return out


if os.environ.get("MEASURE_AFTER_LEAVE"):
    harness.sc_kill = kill_after_leave

if __name__ == "__main__":
    import run  # noqa: F401  the harness's program, which begins when it is imported
