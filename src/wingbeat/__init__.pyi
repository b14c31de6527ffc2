from wingbeat.adapter import Adapter as Adapter
from wingbeat.conversation import Conversation as Conversation
from wingbeat.llm import LLM as LLM
from wingbeat.sampling.params import SamplingParams as SamplingParams
from wingbeat.text.tools import Tool as Tool
