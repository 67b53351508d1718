"""What an instrumentor of another SDK is made of: the gate that OpenAI's calls pass too, and the words to tell it what passes.

For SDKs of the generator that made OpenAI's, whose clients have a method `request`. Example: `plugins/rlm-obs-anthropic`.
"""

from rlm_obs import _parts as parts
from rlm_obs._budgets.bound import Bound, most_input_tokens
from rlm_obs._call import Answer, Needs
from rlm_obs._hookspecs import Instrumentor
from rlm_obs._instrument.options import body_of, changed, fields_of, timeout_s
from rlm_obs._instrument.reader import Asked, Changes, Reader
from rlm_obs._instrument.sdk import SdkInstrumentor
from rlm_obs._pricing import read_usage
from rlm_obs._runtime import InForce

__all__ = [
    "Answer",
    "Asked",
    "Bound",
    "Changes",
    "InForce",
    "Instrumentor",
    "Needs",
    "Reader",
    "SdkInstrumentor",
    "body_of",
    "changed",
    "fields_of",
    "most_input_tokens",
    "parts",
    "read_usage",
    "timeout_s",
]
