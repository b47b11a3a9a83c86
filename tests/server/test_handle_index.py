"""Handles: each names its slot for as long as it is current, tells nothing, and is not guessed."""

from __future__ import annotations

import random
import time

import numpy as np

from carousel.server.departed import Ended
from carousel.server.table import SessionTable

GUESSES = 1_000_000
SIGMAS = 7.0  # once in 1e11 by chance


def filled(count: int) -> SessionTable:
    table = SessionTable()
    for number in range(count):
        insert(table, f"s{number}")
    return table


def insert(table: SessionTable, session_id: str) -> int:
    return table.insert(session_id, version=1, row=0, ttl=1.0, lifetime=1.0, now=0.0)


def test_handles_name_what_a_dictionary_would_say() -> None:
    dice, table = random.Random(5), SessionTable()
    live: dict[int, int] = {}  # handle -> slot
    over: set[int] = set()
    for number in range(3000):
        choice = dice.random()
        if choice < 0.6 or not live:
            slot = insert(table, f"s{number}")
        elif choice < 0.7:
            slots = table.insert_copies(
                dice.choice([*live.values()]),
                [f"c{number}", f"d{number}"],
                np.zeros(2, np.int64),
                0.0,
            )
            live |= {int(table.handle[slot]): int(slot) for slot in slots}
            continue
        else:
            handle = dice.choice([*live])
            slot = live.pop(handle)
            over.add(handle)
            if choice < 0.85:
                table.remove(slot, Ended(table.ids[slot], "m/1", 1, "CLOSED", 0, 0.0, 0.0))
                continue
            table.renew_handle(slot)
        live[int(table.handle[slot])] = slot
    slots, good = table.slots_of(np.array([*live], np.uint64))
    assert good.all()
    assert slots.tolist() == [*live.values()]
    assert [table.slot_of(handle) for handle in live] == [*live.values()]
    known = np.array([*over, 0, 1, 2**64 - 1], np.uint64)
    assert not table.slots_of(known)[1].any()
    assert not any(table.slot_of(handle) is not None for handle in known.tolist())


def test_an_empty_table_has_no_handles() -> None:
    table = SessionTable()
    assert not table.slots_of(np.array([0, 1, 2**64 - 1], np.uint64))[1].any()
    assert table.slot_of(0) is None
    assert table.slot_of(7) is None


def test_the_first_session_of_a_message_is_found_wherever_it_stands() -> None:
    table, dice = filled(300), random.Random(6)
    strays = [handle for handle in range(1, 100) if table.slot_of(handle) is None]
    for place in (0, 1, 15, 16, 17, 80):
        live = dice.sample(table.handle[:300].tolist(), 3)
        handles = [*strays[:place], *live, *strays[place:]]
        assert table.first_slot(handles, "") == table.slot_of(live[0])
    for count in (0, 1, 16, 17, 80):
        assert table.first_slot(strays[:count], "") is None
    assert table.first_slot([*strays, *table.handle[:300].tolist()], "somebody") is None


def test_no_bit_of_a_handle_goes_with_a_bit_of_its_slot_or_of_the_one_before() -> None:
    table = filled(4096)
    table.insert_copies(0, [f"c{number}" for number in range(4096)], np.zeros(4096, np.int64), 0.0)
    slots = np.arange(8192)
    bits = np.array([[slot >> bit & 1 for bit in range(64)] for slot in table.handle.tolist()])
    own = np.array([[slot >> bit & 1 for bit in range(13)] for slot in slots.tolist()])
    for others in (own[:, None, :], np.roll(bits, 1, axis=0)[:, None, :], np.zeros((8192, 1, 1))):
        agree = (bits[:, :, None] == others).mean(axis=0)
        assert np.abs(agree - 0.5).max() < SIGMAS * 0.5 / np.sqrt(8192)


def test_a_million_guesses_hit_nothing_and_are_answered_at_once() -> None:
    table = filled(4096)
    guesses = np.frombuffer(np.random.default_rng().bytes(8 * GUESSES), np.uint64)
    assert not np.isin(guesses, table.handle).any()
    begin = time.thread_time()
    _, good = table.slots_of(guesses)
    assert not good.any()
    assert time.thread_time() - begin < 5  # of processor time; some 0.02 in fact
