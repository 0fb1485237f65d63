"""What each fault of the schedule does: break something, let it last, mend it.

Each function takes the site, the step, and a callable that it calls when the fault has begun (the
client then submits the rest). It returns the moment, by the monotonic clock, from which on nothing
stands in the way of recovery.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from tests.integration.faults.hub_site import HubSite
from tests.integration.faults.proxy import TO_BROKER, TO_CLIENT, ack_of_an_unknown_tag
from tests.integration.faults.schedule import Step
from tests.integration.faults.site import WORKERS, Site
from tests.integration.scene import until

Begun = Callable[[], None]
NOTICED_S = 60.0
# RabbitMQ's own values; source: its documentation of consumers and of rabbitmq.conf.
DEFAULT_CONSUMER_TIMEOUT_MS, DEFAULT_TICK_MS = 1_800_000, 60_000
SHORT_CONSUMER_TIMEOUT_MS, SHORT_TICK_MS = 1_000, 300
ALREADY_RUNS = 73  # cep.errors.CantCreate: the endpoint has an agent
SLOW_LAG_S = 0.004


def last(step: Step) -> None:
    """Let a fault last as long as the plan says."""
    threading.Event().wait(step.lasts_ms / 1000)


# --- the agent ------------------------------------------------------------------------------------


def kill_agent(site: Site, _step: Step, begun: Begun) -> float:
    site.kill()
    begun()
    return site.start()


def kill_agent_at_a_point(site: Site, step: Step, begun: Begun) -> float:
    site.arm(f"{step.point}:{step.arrival}")
    begun()

    def over() -> bool:
        return site.agent.poll() is not None or site.all_answered()

    until(over, within_s=NOTICED_S, what="the agent dies at its point, or all is done before")
    site.kill()
    assert site.agent.returncode == -signal.SIGKILL, site.scene.log()
    return site.start()


def kill_agent_and_start_two(site: Site, _step: Step, begun: Begun) -> float:
    site.kill()
    begun()
    now = time.monotonic()
    pair = [site.launch(), site.launch()]
    until(lambda: any(one.poll() is not None for one in pair), within_s=60, what="one gives way")
    loser, winner = sorted(pair, key=lambda one: one.poll() is None)
    assert loser.returncode == ALREADY_RUNS, site.scene.log()
    assert winner.poll() is None, site.scene.log()
    site.agent = winner
    return now


def kill_agent_while_it_drains(site: Site, step: Step, begun: Begun) -> float:
    site.agent.terminate()
    begun()
    threading.Event().wait(step.lasts_ms / 10_000)
    site.kill()
    return site.start()


def stop_agent(site: Site, _step: Step, begun: Begun) -> float:
    site.agent.terminate()
    begun()
    assert site.agent.wait(60) == 0, site.scene.log()
    return site.start()


def start_second_agent(site: Site, _step: Step, begun: Begun) -> float:
    now = time.monotonic()
    begun()
    second = site.scene.start(crash="none:1")
    assert second.wait(60) == ALREADY_RUNS, site.scene.words
    assert site.agent.poll() is None, "the first agent goes on"
    return now


def suspend_agent(site: Site, _step: Step, begun: Begun) -> float:
    until(site.connected, within_s=NOTICED_S, what="the broker lists its connections")
    site.agent.send_signal(signal.SIGSTOP)
    try:
        begun()
        until(lambda: not site.connected(), within_s=NOTICED_S, what="the broker gives it up")
    finally:
        site.agent.send_signal(signal.SIGCONT)
    return time.monotonic()


# --- the engine's processes -----------------------------------------------------------------------


def kill_worker(site: Site, step: Step, begun: Begun) -> float:
    site.strike(step.pick, "worker")
    begun()
    return time.monotonic()


def kill_pool(site: Site, step: Step, begun: Begun) -> float:
    site.strike(step.pick, "pool process", "cep worker pool")
    begun()
    return time.monotonic()


def kill_interchange(site: Site, step: Step, begun: Begun) -> float:
    site.strike(step.pick, "interchange", "parsl: HTEX interchange")
    begun()
    return time.monotonic()


def kill_manager(site: Site, step: Step, begun: Begun) -> float:
    site.strike(step.pick, "manager", "cep.engines.pool_main")
    begun()
    return time.monotonic()


# --- the broker -----------------------------------------------------------------------------------


def restart_broker(site: Site, _step: Step, begun: Begun) -> float:
    begun()
    try:
        site.broker.stop()
    finally:
        site.broker.start()
    return time.monotonic()


def kill_broker(site: Site, _step: Step, begun: Begun) -> float:
    begun()
    try:
        site.broker.kill()
    finally:
        site.broker.start()
    return time.monotonic()


def close_connections(site: Site, _step: Step, begun: Begun) -> float:
    site.broker.close_connections(site.user)
    begun()
    return time.monotonic()


def break_protocol(site: Site, _step: Step, begun: Begun) -> float:
    site.proxy.inject(ack_of_an_unknown_tag())
    begun()
    return time.monotonic()


def raise_alarm(site: Site, step: Step, begun: Begun, on: list[str], off: list[str]) -> float:
    begun()
    try:
        site.broker.control(*on)
        last(step)
    finally:
        site.broker.control(*off)
    return time.monotonic()


def raise_memory_alarm(site: Site, step: Step, begun: Begun) -> float:
    verb = "set_vm_memory_high_watermark"
    return raise_alarm(site, step, begun, [verb, "0.000001"], [verb, "0.6"])


def raise_disk_alarm(site: Site, step: Step, begun: Begun) -> float:
    verb = "set_disk_free_limit"
    return raise_alarm(site, step, begun, [verb, "90000GB"], [verb, "50MB"])


def set_consumer_timeout(site: Site, timeout_ms: int, tick_ms: int) -> None:
    """Channels opened from now on have these."""
    site.broker.control(
        "eval",
        f"application:set_env(rabbit, consumer_timeout, {timeout_ms}), "
        f"application:set_env(rabbit, channel_tick_interval, {tick_ms}).",
    )


def time_consumer_out(site: Site, _step: Step, begun: Begun) -> float:
    """The agent is suspended with deliveries in its socket until the broker loses patience."""

    def timeouts() -> int:
        lines = site.broker.logs(100_000).splitlines()
        queue = site.scene.tasks_queue
        return sum("waiting for a consumer ack" in line and queue in line for line in lines)

    before = timeouts()
    set_consumer_timeout(site, SHORT_CONSUMER_TIMEOUT_MS, SHORT_TICK_MS)
    try:
        downs = site.count_in_log("link tasks is up again")
        until(
            lambda: len(site.broker.connections_of(site.user)) >= 2,
            within_s=NOTICED_S,
            what="the broker lists both of its connections",
        )
        site.broker.close_connections(site.user)
        until(
            lambda: site.count_in_log("link tasks is up again") > downs,
            within_s=NOTICED_S,
            what="the agent has a channel with the short time-out",
        )
        site.agent.send_signal(signal.SIGSTOP)
        begun()
        until(lambda: timeouts() > before, within_s=NOTICED_S, what="the broker times it out")
    finally:
        site.agent.send_signal(signal.SIGCONT)
        now = time.monotonic()
        set_consumer_timeout(site, DEFAULT_CONSUMER_TIMEOUT_MS, DEFAULT_TICK_MS)
    return now


# --- the network ----------------------------------------------------------------------------------


def cut_network(site: Site, step: Step, begun: Begun) -> float:
    site.proxy.cut()
    begun()
    last(step)
    site.proxy.mend()
    return time.monotonic()


def cut_network_in_a_frame(site: Site, step: Step, begun: Begun) -> float:
    begun()
    site.proxy.cut_in_a_frame((TO_BROKER, TO_CLIENT)[step.pick % 2], NOTICED_S)
    return time.monotonic()


def cut_network_before_acks(site: Site, step: Step, begun: Begun) -> float:
    return _lose_acks(site, step, begun, TO_BROKER)


def cut_network_before_confirms(site: Site, step: Step, begun: Begun) -> float:
    return _lose_acks(site, step, begun, TO_CLIENT)


def _lose_acks(site: Site, step: Step, begun: Begun, direction: str) -> float:
    site.proxy.swallow_acks(direction)
    begun()
    assert site.proxy.wait_for_swallowed(NOTICED_S), "no ack was on its way"
    threading.Event().wait(step.lasts_ms / 10_000)
    site.proxy.cut()
    site.proxy.mend()
    return time.monotonic()


def freeze_network(site: Site, _step: Step, begun: Begun) -> float:
    downs = site.count_in_log("is down:")
    site.proxy.freeze()
    begun()
    until(
        lambda: site.count_in_log("is down:") > downs,
        within_s=NOTICED_S,
        what="the agent gives a silent connection up",
    )
    site.proxy.mend()
    return time.monotonic()


def slow_network(site: Site, step: Step, begun: Begun) -> float:
    site.proxy.slow(SLOW_LAG_S)
    begun()
    last(step)
    site.proxy.mend()
    return time.monotonic()


# --- the hub --------------------------------------------------------------------------------------


def kill_hub(site: Site, _step: Step, begun: Begun) -> float:
    assert isinstance(site, HubSite)
    # What was submitted is answered by now: a submit whose answer was on its way is the one thing
    # that a client cannot repeat safely.
    begun()
    assert site.books.wait_submitted(site.client.asked, NOTICED_S)
    return site.kill_hub()


ACTS: dict[str, Callable[[Site, Step, Begun], float]] = {
    "agent killed": kill_agent,
    "agent killed at a commit point": kill_agent_at_a_point,
    "agent killed, two started at once": kill_agent_and_start_two,
    "agent killed while it drains": kill_agent_while_it_drains,
    "worker killed": kill_worker,
    "pool process killed": kill_pool,
    "HTEX interchange killed": kill_interchange,
    "HTEX manager killed": kill_manager,
    "SIGTERM in the middle": stop_agent,
    "second agent for the endpoint": start_second_agent,
    "agent suspended past the heartbeat": suspend_agent,
    "broker stopped and started": restart_broker,
    "broker killed": kill_broker,
    "connections closed by the broker": close_connections,
    "channel closed by a protocol error": break_protocol,
    "memory alarm": raise_memory_alarm,
    "disk alarm": raise_disk_alarm,
    "consumer time-out": time_consumer_out,
    "network cut": cut_network,
    "network cut in a frame": cut_network_in_a_frame,
    "network cut before our acks": cut_network_before_acks,
    "network cut before the confirms": cut_network_before_confirms,
    "network half open": freeze_network,
    "network slow": slow_network,
    "hub killed": kill_hub,
    "hub: agent killed": kill_agent,
    "hub: agent killed at a commit point": kill_agent_at_a_point,
    "hub: network cut": cut_network,
    "hub: network cut before the confirms": cut_network_before_confirms,
}

# Tasks that a fault may have hit between the note of their begin and their first line: one for
# each worker that it kills. No other fault allows an error answer at all.
CAUGHT_AT_BEGIN = {
    "agent killed": WORKERS,
    "agent killed at a commit point": WORKERS,
    "agent killed, two started at once": WORKERS,
    "agent killed while it drains": WORKERS,
    "worker killed": 1,
    "pool process killed": WORKERS,
    "HTEX interchange killed": WORKERS,
    "HTEX manager killed": WORKERS,
    "hub: agent killed": WORKERS,
    "hub: agent killed at a commit point": WORKERS,
}
