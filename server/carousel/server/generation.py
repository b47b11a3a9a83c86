"""Generation: sample a token, feed it, and so on, through the same turns as everybody's steps."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np

from carousel.errors import InvalidField, NotGenerative, StepConflict, TokenOutOfRange
from carousel.model import SamplingError, SamplingOptions, Softmax, sample
from carousel.server.gatekeeper import reply_of
from carousel.server.hall import Hall
from carousel.server.health_messages import item_notice
from carousel.server.loaded import LoadedVersion
from carousel.server.notices import Notice
from carousel.server.sessions import Terms
from carousel.server.stop_texts import StopTexts
from carousel.server.table import MEMORY
from carousel.server.texts import encode_text
from carousel.server.work import Floats, Ints
from carousel.v1 import inference_service_pb2 as pb

DEFAULT_TOKENS = 256
MAX_TOP = 20
MAX_STOPS = 16


@dataclass(slots=True)
class Source:
    """The session that generates; `borrowed` from the caller, or made for this call."""

    version: LoadedVersion
    handle: int
    index: int
    session_id: str = ""
    notices: list[Notice] = field(default_factory=list)  # not told yet


async def generate(
    hall: Hall, request: pb.GenerateRequest, deadline: float
) -> AsyncIterator[pb.GenerateResponse]:
    """The responses to a request, one a token; ends at once when the generator is closed."""
    begin = time.monotonic()
    version = _version(hall, request)
    options, limit = _options(request, version, hall.settings.max_tokens)
    prompt = _prompt(request, version)
    own = f"generate-{secrets.token_hex(8)}" if request.WhichOneof("source") == "model" else ""
    try:
        source = await _source(hall, request, version, own)
        logits = await _first_logits(hall, source, prompt, deadline)
        source.index += len(prompt)
        writer = _Writer(request, version, options, source, prompt)
        for number in range(limit):
            token, response = writer.next(logits)
            inputs = np.array([token], np.int64)
            outputs = await hall.run_steps(
                version, source.handle, source.index, inputs, deadline, source.notices
            )
            logits = outputs[-1]
            source.index += 1
            now = time.monotonic()
            (version.metrics.next_token if number else version.metrics.first_token).observe(
                now - begin
            )
            begin = now
            version.metrics.generated_tokens.inc()
            writer.finish(response, last=number + 1 == limit)
            yield response
            if response.finish_reason:
                return
    finally:
        if own:  # known before it is made, so that none is left when the caller goes meanwhile
            hall.engine.call(_end_quietly, hall, own)


def _end_quietly(hall: Hall, session_id: str) -> None:
    if session_id in hall.engine.table.slots:
        hall.sessions.delete(session_id)


class _Writer:
    """Samples tokens and puts them into responses."""

    def __init__(
        self,
        request: pb.GenerateRequest,
        version: LoadedVersion,
        options: SamplingOptions,
        source: Source,
        prompt: Ints,
    ) -> None:
        self.seed = request.seed if request.HasField("seed") else secrets.randbits(63)
        self.made = 0
        self.prompt_tokens = len(prompt)
        self._top = request.log_probabilities if request.HasField("log_probabilities") else None
        self._version = version
        self._tokenizer = version.config.tokenizer
        self._decoder = None if self._tokenizer is None else self._tokenizer.decoder()
        self._options = options
        self._source = source
        self._history = prompt.tolist()
        self._stops = StopTexts(request.stop)
        self._stopped = False
        self._rng = np.random.default_rng(self.seed)

    def next(self, logits: Floats) -> tuple[int, pb.GenerateResponse]:
        token, log_probability = sample(logits, self._options, self._history, self._rng)
        self._history.append(token)
        self.made += 1
        response = pb.GenerateResponse(token=token)
        if self._decoder is not None:
            response.text, self._stopped = self._stops.feed(self._decoder.feed(token))
        if self._top is not None:
            response.log_probability = log_probability
            # The logits differ from log-probabilities by one number, the same for all.
            self._add_likeliest(response, logits - logits[token] + log_probability)
        return token, response

    def finish(self, response: pb.GenerateResponse, *, last: bool) -> None:
        """Complete a response once its token was fed."""
        if self._source.session_id == "":
            response.step_index = self._source.index
        response.notices.extend(item_notice(0, notice) for notice in self._source.notices)
        self._source.notices.clear()
        if not (last or self._stopped):
            return
        response.finish_reason = pb.FINISH_REASON_STOP if self._stopped else pb.FINISH_REASON_LENGTH
        if self._decoder is not None and not self._stopped:
            # A character that the last tokens left half done is shown as U+FFFD.
            response.text += self._stops.feed(self._decoder.rest())[0]
        response.text += self._stops.rest()
        response.prompt_tokens = self.prompt_tokens
        response.generated_tokens = self.made
        response.seed = self.seed

    def _add_likeliest(self, response: pb.GenerateResponse, probabilities: Floats) -> None:
        likeliest = np.argsort(-probabilities, kind="stable")[: self._top]
        for token in likeliest.tolist():
            entry = response.top.add(token=token, log_probability=float(probabilities[token]))
            if self._tokenizer is not None:
                entry.text = self._tokenizer.decode([token])


def _version(hall: Hall, request: pb.GenerateRequest) -> LoadedVersion:
    kind = request.WhichOneof("source")
    if kind is None:
        raise InvalidField("handle or model must be set", field="source")
    hall.refuse_when_draining()
    if kind == "model":
        version = hall.registry.resolve(request.model)
    else:
        found = hall.version_of([request.handle])
        if found is None:
            raise hall.engine.table.why_not(request.handle)
        version = found
    config = version.config
    speaks = isinstance(config.head, Softmax) and config.head.vocabulary == version.vocabulary
    if not (config.takes_tokens and speaks):
        raise NotGenerative(
            f"{version.name} can't generate: it needs tokens in and a softmax over them out"
        )
    return version


def _options(
    request: pb.GenerateRequest, version: LoadedVersion, max_tokens: int
) -> tuple[SamplingOptions, int]:
    limit = request.max_tokens or min(DEFAULT_TOKENS, max_tokens)
    if limit > max_tokens:
        raise InvalidField(f"max_tokens must be 1 to {max_tokens}, got {limit}", field="max_tokens")
    if request.log_probabilities > MAX_TOP:
        raise InvalidField(
            f"log_probabilities must be 0 to {MAX_TOP}, got {request.log_probabilities}",
            field="log_probabilities",
        )
    if len(request.stop) > MAX_STOPS or not all(request.stop):
        raise InvalidField(f"stop must have at most {MAX_STOPS} texts, none empty", field="stop")
    if request.stop and version.config.tokenizer is None:
        raise InvalidField(f"{version.name} has no tokenizer and so no stop texts", field="stop")

    def given(name: str, default: float) -> float:
        return getattr(request, name) if request.HasField(name) else default  # type: ignore[arg-type]

    try:
        options = SamplingOptions(
            temperature=given("temperature", 1.0),
            top_k=request.top_k,
            top_p=given("top_p", 1.0),
            repetition_penalty=given("repetition_penalty", 1.0),
        )
    except SamplingError as error:
        raise InvalidField(str(error), field=str(error).split(" ", 1)[0]) from error
    return options, limit


def _prompt(request: pb.GenerateRequest, version: LoadedVersion) -> Ints:
    if request.WhichOneof("prompt") == "text":
        return encode_text(version.name, version.config, request.text, field="text")
    tokens = np.array(request.tokens.ids, np.int64)
    if len(tokens) and tokens.max() >= version.vocabulary:
        raise TokenOutOfRange(
            f"tokens of {version.name} are 0 to {version.vocabulary - 1}, got {tokens.max()}",
            field="tokens.ids",
        )
    return tokens


async def _source(
    hall: Hall, request: pb.GenerateRequest, version: LoadedVersion, own: str
) -> Source:
    if own:
        terms = Terms(session_id=own, durability=MEMORY)
        session = await hall.engine.call(hall.sessions.create, version, terms)
        return Source(version, session.handle, 0, terms.session_id)
    slots, good = hall.engine.table.slots_of(np.array([request.handle], np.uint64))
    if not good[0]:
        raise hall.engine.table.why_not(request.handle)
    index = int(hall.engine.table.next_index[slots[0]])
    return Source(
        version, request.handle, request.step_index if request.HasField("step_index") else index
    )


async def _first_logits(hall: Hall, source: Source, prompt: Ints, deadline: float) -> Floats:
    """What the first token is sampled from."""
    version = source.version
    if len(prompt) > hall.settings.max_chunk:
        raise InvalidField(
            f"a prompt must have at most {hall.settings.max_chunk} tokens, got {len(prompt)}",
            field="prompt",
        )
    if len(prompt):
        outputs = await hall.run_steps(
            version, source.handle, source.index, prompt, deadline, source.notices
        )
        last: Floats = outputs[-1]
        return last
    slot = hall.engine.table.slot_of(source.handle)
    if slot is not None:
        await hall.resident(hall.engine.table.ids[slot])
    reply = await hall.engine.call(_last_output, hall, source)
    if not len(reply):
        raise InvalidField(
            "without an output of a former step to go on from, the prompt must not be empty",
            field="prompt",
        )
    latest: Floats = reply[-1]
    return latest


def _last_output(hall: Hall, source: Source) -> Floats:
    table = hall.engine.table
    slots, good = table.slots_of(np.array([source.handle], np.uint64))
    if not good[0]:
        raise table.why_not(source.handle)
    slot = int(slots[0])
    expected = int(table.next_index[slot])
    if source.index != expected:
        # The last output belongs to the next step only: another one must not be sampled from it.
        raise StepConflict(
            f"the next step of sessions/{table.ids[slot]} is {expected}, got {source.index}",
            metadata={"expected_step": str(expected)},
        )
    return reply_of(table, source.version, hall.sessions.at(slot)).copy()
