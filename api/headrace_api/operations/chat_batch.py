"""Batches of conversations: what the endpoint does, without HTTP."""

from functools import partial

import msgspec

from headrace_api.directory import ServedModel
from headrace_api.operations.chat import ChatPlan, chat_shape, kept, plan_chat
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.renamed import renamed
from headrace_api.operations.services import Services
from headrace_api.output.chat_batch import ChatBatchAnswer, ChatBatchStream
from headrace_api.schemas.chat_batch import ChatBatchRequest
from headrace_shared.protocol.ask import Ask


async def _prepare(body: ChatBatchRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    plans: list[ChatPlan] = []
    for index, job_id in enumerate(ask.job_ids):
        alone = msgspec.structs.replace(ask, job_ids=(job_id,))
        with renamed({"messages": f"messages[{index}]"}):
            plans.append(await plan_chat(body.conversation(index), alone, model, trace, services))
    shapes = [chat_shape(body.conversation(index), plan, ask, model, services) for index, plan in enumerate(plans)]
    jobs = [plan.job for plan in plans]
    return Prepared(ask, model.card, jobs, partial(ChatBatchStream, shapes), partial(ChatBatchAnswer, shapes))


CHAT_BATCH = Endpoint("chat_batch", ChatBatchRequest, lambda body: len(body.messages), _prepare, kept)
