# Copyright (c) 2026 The homelab.llamacpp authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llama-server's options: every name of each, and how a value of it is written in a preset and read back.

The table is what `llama-server --help` says in version 0.7.0 (build 11669, Debian forky's llama.cpp-tools
1:0.7.0+dfsg-2, November 2026). `tests/make_options_table.py` makes it, and `tests/functional/test_preset_grammar.py`
holds it against the real llama-server. An option that it does not know passes through: a newer llama-server may.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from ansible_collections.homelab.llamacpp.plugins.module_utils import _names

# One option a line: kind[:word…], names (the last one is canonical: the one that llama-server itself prints),
# -negations, $ENVIRONMENT. Kinds: flag, int, float, string, json, list (joined by commas), repeatable (several on a
# command line, one in a preset), and those that no preset can use: pair (two values), removed, exits (prints and ends).
# A number's words may stand instead of it; a string's words are its switch.
TABLE = """\
exits h help usage
exits version
exits cl cache-list
exits completion-bash
int t threads $LLAMA_ARG_THREADS
int tb threads-batch
string C cpu-mask
string Cr cpu-range
int cpu-strict
int prio
int poll
string Cb cpu-mask-batch
string Crb cpu-range-batch
int cpu-strict-batch
int prio-batch
int poll-batch
int c ctx-size $LLAMA_ARG_CTX_SIZE
int n predict n-predict $LLAMA_ARG_N_PREDICT
int b batch-size $LLAMA_ARG_BATCH
int ub ubatch-size $LLAMA_ARG_UBATCH
int keep
flag swa-full $LLAMA_ARG_SWA_FULL
string:on:off:auto fa flash-attn $LLAMA_ARG_FLASH_ATTN
flag perf -no-perf $LLAMA_ARG_PERF
flag e escape -no-escape
string rope-scaling $LLAMA_ARG_ROPE_SCALING_TYPE
float rope-scale $LLAMA_ARG_ROPE_SCALE
float rope-freq-base $LLAMA_ARG_ROPE_FREQ_BASE
float rope-freq-scale $LLAMA_ARG_ROPE_FREQ_SCALE
int yarn-orig-ctx $LLAMA_ARG_YARN_ORIG_CTX
float yarn-ext-factor $LLAMA_ARG_YARN_EXT_FACTOR
float yarn-attn-factor $LLAMA_ARG_YARN_ATTN_FACTOR
float yarn-beta-slow $LLAMA_ARG_YARN_BETA_SLOW
float yarn-beta-fast $LLAMA_ARG_YARN_BETA_FAST
flag kvo kv-offload -nkvo -no-kv-offload $LLAMA_ARG_KV_OFFLOAD
flag repack -nr -no-repack $LLAMA_ARG_REPACK
flag no-host $LLAMA_ARG_NO_HOST
string ctk cache-type-k $LLAMA_ARG_CACHE_TYPE_K
string ctv cache-type-v $LLAMA_ARG_CACHE_TYPE_V
float dt defrag-thold $LLAMA_ARG_DEFRAG_THOLD
list rpc $LLAMA_ARG_RPC
string lm load-mode $LLAMA_ARG_LOAD_MODE
string:on:auto:off lzm lazy-mode $LLAMA_ARG_LAZY_MODE
string numa $LLAMA_ARG_NUMA
list dev device $LLAMA_ARG_DEVICE
exits list-devices
list ot override-tensor $LLAMA_ARG_OVERRIDE_TENSOR
flag cmoe cpu-moe $LLAMA_ARG_CPU_MOE
int ncmoe n-cpu-moe $LLAMA_ARG_N_CPU_MOE
int moe-cache-mib $LLAMA_ARG_MOE_CACHE_MIB
int ncffn n-cpu-ffn $LLAMA_ARG_N_CPU_FFN
int:auto:all ngl gpu-layers n-gpu-layers $LLAMA_ARG_N_GPU_LAYERS
string sm split-mode $LLAMA_ARG_SPLIT_MODE
list ts tensor-split $LLAMA_ARG_TENSOR_SPLIT
int mg main-gpu $LLAMA_ARG_MAIN_GPU
string:on:off fit $LLAMA_ARG_FIT
list fitt fit-target $LLAMA_ARG_FIT_TARGET
int fitc fit-ctx $LLAMA_ARG_FIT_CTX
flag check-tensors
list override-kv
flag op-offload -no-op-offload
list lora
list lora-scaled
list control-vector
list control-vector-scaled
pair control-vector-layer-range
string m model $LLAMA_ARG_MODEL
string mu model-url $LLAMA_ARG_MODEL_URL
string dr docker-repo $LLAMA_ARG_DOCKER_REPO
string hf hfr hf-repo $LLAMA_ARG_HF_REPO
string hff hf-file $LLAMA_ARG_HF_FILE
string hft hf-token $HF_TOKEN
flag log-disable
string log-file $LLAMA_ARG_LOG_FILE
flag log-jsonl -no-log-jsonl $LLAMA_ARG_LOG_JSONL
string:on:off:auto log-colors $LLAMA_ARG_LOG_COLORS
flag v verbose log-verbose
flag offline $LLAMA_ARG_OFFLINE
int lv verbosity log-verbosity $LLAMA_ARG_LOG_VERBOSITY
flag log-prefix -no-log-prefix $LLAMA_ARG_LOG_PREFIX
flag log-timestamps -no-log-timestamps $LLAMA_ARG_LOG_TIMESTAMPS
string spec-draft-type-k ctkd cache-type-k-draft $LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K
string spec-draft-type-v ctvd cache-type-v-draft $LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V
string samplers
int s seed
string sampler-seq sampling-seq
flag ignore-eos
float temp temperature $LLAMA_ARG_TEMPERATURE
int top-k $LLAMA_ARG_TOP_K
float top-p $LLAMA_ARG_TOP_P
float min-p $LLAMA_ARG_MIN_P
float top-nsigma top-n-sigma
float xtc-probability
float xtc-threshold
float typical typical-p
int repeat-last-n
float repeat-penalty $LLAMA_ARG_REPEAT_PENALTY
float presence-penalty $LLAMA_ARG_PRESENCE_PENALTY
float frequency-penalty $LLAMA_ARG_FREQUENCY_PENALTY
float dry-multiplier
float dry-base
int dry-allowed-length
int dry-penalty-last-n
repeatable dry-sequence-breaker
float adaptive-target
float adaptive-decay
float dynatemp-range
float dynatemp-exp
int mirostat
float mirostat-lr
float mirostat-ent
repeatable l logit-bias
string grammar
string grammar-file
json j json-schema
string jf json-schema-file
flag bs backend-sampling $LLAMA_ARG_BACKEND_SAMPLING
string spec-draft-hf hfd hfrd hf-repo-draft $LLAMA_ARG_SPEC_DRAFT_HF_REPO
int spec-draft-threads td threads-draft
int spec-draft-threads-batch tbd threads-batch-draft
string spec-draft-cpu-mask Cd cpu-mask-draft
string spec-draft-cpu-range Crd cpu-range-draft
int spec-draft-cpu-strict cpu-strict-draft
int spec-draft-prio prio-draft
int spec-draft-poll poll-draft
string spec-draft-cpu-mask-batch Cbd cpu-mask-batch-draft
int spec-draft-cpu-strict-batch cpu-strict-batch-draft
int spec-draft-prio-batch prio-batch-draft
int spec-draft-poll-batch poll-batch-draft
list spec-draft-override-tensor otd override-tensor-draft
flag spec-draft-cpu-moe cmoed cpu-moe-draft $LLAMA_ARG_SPEC_DRAFT_CPU_MOE
int spec-draft-n-cpu-moe spec-draft-ncmoe ncmoed n-cpu-moe-draft $LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE
int spec-draft-n-max $LLAMA_ARG_SPEC_DRAFT_N_MAX
int spec-draft-n-min $LLAMA_ARG_SPEC_DRAFT_N_MIN
int spec-draft-n-ubatch $LLAMA_ARG_SPEC_DRAFT_N_UBATCH
float spec-synth-len $LLAMA_ARG_SPEC_SYNTH_LEN
list spec-synth-rates $LLAMA_ARG_SPEC_SYNTH_RATES
float spec-draft-p-split draft-p-split $LLAMA_ARG_SPEC_DRAFT_P_SPLIT
float spec-draft-p-min draft-p-min $LLAMA_ARG_SPEC_DRAFT_P_MIN
flag spec-draft-backend-sampling -no-spec-draft-backend-sampling $LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING
string spec-draft-sampling $LLAMA_ARG_SPEC_DRAFT_SAMPLING
list spec-draft-device devd device-draft
int:auto:all spec-draft-ngl ngld gpu-layers-draft n-gpu-layers-draft $LLAMA_ARG_N_GPU_LAYERS_DRAFT
string spec-draft-model md model-draft $LLAMA_ARG_SPEC_DRAFT_MODEL
list spec-type $LLAMA_ARG_SPEC_TYPE
int spec-ngram-mod-n-min
int spec-ngram-mod-n-max
int spec-ngram-mod-n-match
int spec-ngram-simple-size-n
int spec-ngram-simple-size-m
int spec-ngram-simple-min-hits
int spec-ngram-map-k-size-n
int spec-ngram-map-k-size-m
int spec-ngram-map-k-min-hits
int spec-ngram-map-k4v-size-n
int spec-ngram-map-k4v-size-m
int spec-ngram-map-k4v-min-hits
removed draft draft-n draft-max $LLAMA_ARG_DRAFT_MAX
removed draft-min draft-n-min $LLAMA_ARG_DRAFT_MIN
removed spec-ngram-size-n
removed spec-ngram-size-m
removed spec-ngram-min-hits
string lcs lookup-cache-static
string lcd lookup-cache-dynamic
int kv-unified-per-slot $LLAMA_ARG_KV_UNIFIED_PER_SLOT
int ctxcp ctx-checkpoints swa-checkpoints $LLAMA_ARG_CTX_CHECKPOINTS
int cms checkpoint-min-step $LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT
int cram cache-ram $LLAMA_ARG_CACHE_RAM
flag kvu kv-unified -no-kvu -no-kv-unified $LLAMA_ARG_KV_UNIFIED
flag cache-idle-slots -no-cache-idle-slots $LLAMA_ARG_CACHE_IDLE_SLOTS
flag context-shift -no-context-shift $LLAMA_ARG_CONTEXT_SHIFT
repeatable r reverse-prompt
flag sp special
flag warmup -no-warmup
flag spm-infill
string pooling $LLAMA_ARG_POOLING
int np parallel $LLAMA_ARG_N_PARALLEL
flag cb cont-batching -nocb -no-cont-batching $LLAMA_ARG_CONT_BATCHING
string mm mmproj $LLAMA_ARG_MMPROJ
string mmu mmproj-url $LLAMA_ARG_MMPROJ_URL
flag mmproj-auto -no-mmproj -no-mmproj-auto $LLAMA_ARG_MMPROJ_AUTO
flag mmproj-offload -no-mmproj-offload $LLAMA_ARG_MMPROJ_OFFLOAD
string mmdev mmproj-device $MTMD_BACKEND_DEVICE
int image-min-tokens $LLAMA_ARG_IMAGE_MIN_TOKENS
int image-max-tokens $LLAMA_ARG_IMAGE_MAX_TOKENS
int mtmd-batch-max-tokens $LLAMA_ARG_MTMD_BATCH_MAX_TOKENS
float video-fps $LLAMA_ARG_VIDEO_FPS
int video-timestamp-interval $LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL
string video-ffmpeg-dir $LLAMA_ARG_VIDEO_FFMPEG_DIR
list a alias $LLAMA_ARG_ALIAS
list tags $LLAMA_ARG_TAGS
int embd-normalize
list host $LLAMA_ARG_HOST
int port $LLAMA_ARG_PORT
flag reuse-port $LLAMA_ARG_REUSE_PORT
string path $LLAMA_ARG_STATIC_PATH
list cors-origins $LLAMA_ARG_CORS_ORIGINS
list cors-methods $LLAMA_ARG_CORS_METHODS
list cors-headers $LLAMA_ARG_CORS_HEADERS
flag cors-credentials -no-cors-credentials $LLAMA_ARG_CORS_CREDENTIALS
string api-prefix $LLAMA_ARG_API_PREFIX
json ui-config webui-config $LLAMA_ARG_UI_CONFIG
string ui-config-file webui-config-file $LLAMA_ARG_UI_CONFIG_FILE
flag ui-mcp-proxy webui-mcp-proxy -no-ui-mcp-proxy -no-webui-mcp-proxy $LLAMA_ARG_UI_MCP_PROXY
list tools $LLAMA_ARG_TOOLS
string tools-runtime $LLAMA_ARG_TOOLS_RUNTIME
string mcp-servers-config $LLAMA_ARG_MCP_SERVERS_CONFIG
json mcp-servers-json $LLAMA_ARG_MCP_SERVERS_JSON
flag ag agent -no-ag -no-agent $LLAMA_ARG_AGENT
flag ui webui -no-ui -no-webui $LLAMA_ARG_UI
flag embedding embeddings $LLAMA_ARG_EMBEDDINGS
flag rerank reranking $LLAMA_ARG_RERANKING
list api-key $LLAMA_API_KEY
string api-key-file $LLAMA_ARG_API_KEY_FILE
string ssl-key-file $LLAMA_ARG_SSL_KEY_FILE
string ssl-cert-file $LLAMA_ARG_SSL_CERT_FILE
json chat-template-kwargs $LLAMA_ARG_CHAT_TEMPLATE_KWARGS
int to timeout $LLAMA_ARG_TIMEOUT
int sse-ping-interval $LLAMA_ARG_SSE_PING_INTERVAL
int threads-http $LLAMA_ARG_THREADS_HTTP
flag cache-prompt -no-cache-prompt $LLAMA_ARG_CACHE_PROMPT
int cache-reuse $LLAMA_ARG_CACHE_REUSE
flag metrics $LLAMA_ARG_ENDPOINT_METRICS
flag props $LLAMA_ARG_ENDPOINT_PROPS
flag slots -no-slots $LLAMA_ARG_ENDPOINT_SLOTS
string slot-save-path $LLAMA_ARG_SLOT_SAVE_PATH
string media-path
string models-dir $LLAMA_ARG_MODELS_DIR
string models-preset $LLAMA_ARG_MODELS_PRESET
int models-max $LLAMA_ARG_MODELS_MAX
flag models-autoload -no-models-autoload $LLAMA_ARG_MODELS_AUTOLOAD
flag jinja -no-jinja $LLAMA_ARG_JINJA
string reasoning-format $LLAMA_ARG_THINK
string:on:off:auto rea reasoning $LLAMA_ARG_REASONING
string reasoning-effort $LLAMA_ARG_REASONING_EFFORT
int reasoning-budget $LLAMA_ARG_THINK_BUDGET
string reasoning-budget-message $LLAMA_ARG_THINK_BUDGET_MESSAGE
flag reasoning-preserve -no-reasoning-preserve $LLAMA_ARG_REASONING_PRESERVE
string chat-template $LLAMA_ARG_CHAT_TEMPLATE
string chat-template-file $LLAMA_ARG_CHAT_TEMPLATE_FILE
flag skip-chat-parsing -no-skip-chat-parsing $LLAMA_ARG_SKIP_CHAT_PARSING
flag prefill-assistant -no-prefill-assistant $LLAMA_ARG_PREFILL_ASSISTANT
float sps slot-prompt-similarity
flag lora-init-without-apply
int sleep-idle-seconds
string log-prompts-dir
flag embd-gemma-default
flag fim-qwen-1.5b-default
flag fim-qwen-3b-default
flag fim-qwen-7b-default
flag fim-qwen-7b-spec
flag fim-qwen-14b-spec
flag fim-qwen-30b-default
flag gpt-oss-20b-default
flag gpt-oss-120b-default
flag vision-gemma-4b-default
flag vision-gemma-12b-default
flag spec-default
"""

# Known to presets alone, so absent from --help. The two flags count as true only when they say so.
PRESET_ONLY = """\
flag load-on-startup $__PRESET_LOAD_ON_STARTUP
int stop-timeout $__PRESET_STOP_TIMEOUT
flag dedup-cache-models $__PRESET_DEDUP_CACHE_MODELS
"""

# Belong to the router's command line: in a preset it drops or overwrites them without a word.
RESERVED = frozenset(
    {
        *("api-key", "api-key-file", "ssl-key-file", "ssl-cert-file", "host", "port"),
        *("models-dir", "models-max", "models-preset", "models-autoload"),
    }
)

# No longer options, or never were, with what to write instead.
REPLACED = {
    "mmap": "load-mode: mmap",
    "no-mmap": "load-mode: none",
    "mlock": "load-mode: mlock",
    "LLAMA_ARG_MMAP": "load-mode: mmap",
    "LLAMA_ARG_NO_MMAP": "load-mode: none",
    "LLAMA_ARG_MLOCK": "load-mode: mlock",
    "pin": "load-on-startup: true, and a limit of models that leaves it its place",
    "draft-max": "spec-draft-n-max",
    "draft-n-min": "spec-draft-n-min",
    "spec-ngram-size-n": "spec-ngram-mod-n-match, or spec-ngram-simple-size-n and its like",
    "spec-ngram-size-m": "spec-ngram-simple-size-m and its like",
    "spec-ngram-min-hits": "spec-ngram-simple-min-hits and its like",
}

# Their values are secrets. A preset and a command line show them: in world-readable files, in argv, in GET /models.
SECRET = "********"
_SECRETS = {
    "hf-token": "give the hub's token to the role llama_models (llama_models_token, out of a vault)",
    "api-key": "give keys to the role (llama_router_api_keys, api_keys of an instance) or to router_keys",
}
_SECRET_NAME = re.compile(r".*(token|password|passwd|secret|api-key)")
# With them whoever has a key runs commands on the server, or uses its network.
_POWER_NAME = re.compile(r"(tools|agent|mcp|ui-mcp|webui-mcp)(-.*)?")
_POWERS = frozenset({"tools", "tools-runtime", "agent", "mcp-servers-config", "mcp-servers-json", "webui-mcp-proxy"})
# What JSON may hold, and a line of a preset may not.
_SPECIAL = re.compile("[;#\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_TRUE = ("on", "enabled", "true", "1")
_FALSE = ("off", "disabled", "false", "0")
_MEANT = {**dict.fromkeys(("yes", "y", *_TRUE), "true"), **dict.fromkeys(("no", "n", "none", "", *_FALSE), "false")}


class Option(NamedTuple):
    """One option. `name` is the canonical one of its `names`; `negations` mean the opposite; `env` is "" for none."""

    name: str
    names: tuple[str, ...]
    negations: tuple[str, ...]
    env: str
    kind: str
    words: tuple[str, ...]


def _read_table(text: str) -> dict[str, Option]:
    options = {}
    for line in text.splitlines():
        kind, *rest = line.split()
        kind, *words = kind.split(":")
        names = [word for word in rest if word[0] not in "-$"]
        negations = [word[1:] for word in rest if word[0] == "-"]
        env = next((word[1:] for word in rest if word[0] == "$"), "")
        option = Option(names[-1], tuple(names), tuple(negations), env, kind, tuple(words))
        options.update(dict.fromkeys([*names, *negations, *filter(None, [env, misleading_env(option)])], option))
    return options


def misleading_env(option: Option) -> str:
    """The environment name of a flag's negation, "" for none. In a preset it negates nothing: it means the flag."""
    return option.env.replace("LLAMA_ARG_", "LLAMA_ARG_NO_") if option.negations else ""


# Every name, negation and environment name to its option.
OPTIONS = _read_table(TABLE + PRESET_ONLY)


def find(key: str) -> Option | None:
    """The option that `key` (any of its names) means, None when the table does not know it."""
    return OPTIONS.get(key)


def canonical(key: str) -> tuple[str, bool]:
    """The canonical name of `key`, and whether `key` negates it. An unknown key is its own canonical name."""
    option = OPTIONS.get(key)
    return (option.name, key in option.negations) if option else (key, False)


def complaint(key: str) -> str:
    """Why `key` does nothing good in a preset, with what mends it; "" when it is a known option of presets."""
    option = OPTIONS.get(key)
    instead = REPLACED.get(option.name if option else key)
    if instead:
        return f"{key} is no option of llama-server any more; instead write {instead}"
    if option is None:
        return f"{key} is not an option of llama-server 0.7.0 (build 11669); see llama-server --help"
    if option.name in RESERVED:
        return f"{key} belongs to the router: llama-server ignores it in a preset; give it on the router's command line"
    if option.kind == "exits":
        return f"{key} makes llama-server print something and exit, the model would never load; take it away"
    if option.kind == "pair":
        return f"{key} takes two values, which a preset has no way to give; take it away"
    return ""


def refusal(key: Any, value: Any, allow: Collection[str] = ()) -> str:
    """Why `key` is not to be an option of a server at all, with the right way; "" for all others.

    These are options with a secret, and those that let clients run commands on the server unless `allow` names them.
    The message never shows the value.
    """
    if value is None or not isinstance(key, str):
        return ""
    name, negated = _plain_name(key)
    if _is_secret(name):
        how = _SECRETS.get(name, "keep it out of options and presets")
        return f"{name} is a secret, and an option shows it to other users and clients; {how}"
    if _names.has_credentials(value):
        return f"{name} has a user or a password in a URL, which an option shows to other users and clients"
    if _is_power(name) and name not in {_plain_name(one)[0] for one in allow}:
        option = OPTIONS.get(name)
        if option and option.kind == "flag" and str(value).lower() in (_TRUE if negated else _FALSE):
            return ""
        return (
            f"{name} lets whoever has a key run commands on the server or use its network; take it away, or allow it"
            f" by name (allow_options: [{name}])"
        )
    return ""


def masked(key: str, value: Any) -> Any:
    """`value` for a result, a diff or a message: a secret is not in it."""
    name, _negated = _plain_name(key)
    if value is None or isinstance(value, bool):
        return value
    if _is_secret(name) or name == "mcp-servers-json":
        return SECRET
    if isinstance(value, str):
        return _names.without_credentials(value, SECRET)
    if isinstance(value, (list, tuple)):
        return [masked(key, one) for one in value]
    return value


def masked_all(options: Mapping[str, Any]) -> dict[str, Any]:
    """`masked`, for each of these options."""
    return {key: masked(key, value) for key, value in options.items()}


def secrets_in(options: Mapping[str, Any]) -> set[str]:
    """The texts in these options that no output may show."""
    return {
        text
        for key, value in options.items()
        if value is not None and masked(str(key), value) != value
        for text in _leaves(value)
    }


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            yield from _leaves(json.loads(value))
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, str) and value:
        yield value


def _plain_name(key: str) -> tuple[str, bool]:
    """The canonical name as llama-server takes it: on a command line _ stands for - as well."""
    bare = key.strip().lstrip("-")
    return canonical(bare if bare in OPTIONS else bare.replace("_", "-").lower())


def _is_secret(name: str) -> bool:
    return name in _SECRETS or (name not in OPTIONS and bool(_SECRET_NAME.fullmatch(name)))


def _is_power(name: str) -> bool:
    return name in _POWERS or (name not in OPTIONS and bool(_POWER_NAME.fullmatch(name)))


def to_text(key: str, value: Any) -> str:
    """`value` as a preset writes it for `key`. ValueError, with the mend, where llama-server would not read it so."""
    option = OPTIONS.get(key)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: {value} is not a number that llama-server reads")
    if option is None:
        return _unknown_to_text(key, value)
    if option.kind == "flag":
        return _flag_to_text(key, option, value)
    if isinstance(value, (list, tuple)) and option.kind == "list":
        return _join(key, value)
    if isinstance(value, dict) and option.kind == "json":
        # A preset takes ; and # for comments, wherever they are; inside JSON all signs can be written in another way.
        return _SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, (list, tuple)):
        why = "; only a command line may repeat it" if option.kind == "repeatable" else ""
        raise ValueError(f"{key} takes one value in a preset, found a list of {len(value)}{why}")
    if isinstance(value, bool):
        if "on" in option.words:
            return "on" if value else "off"
        raise ValueError(f"{key} is no flag, found {str(value).lower()}; write its value ({_wanted(option)})")
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{key} takes {_wanted(option)}, found {type(value).__name__}")
    text = _number(value)
    pattern = {"int": r"[+-]?[0-9]+", "float": r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"}.get(option.kind)
    if pattern and not re.fullmatch(pattern, text) and text not in option.words:
        raise ValueError(f"{key} takes {_wanted(option)}, found {text!r}: the model would not load with it")
    return text


def from_text(key: str, text: str) -> bool | int | float | str:
    """What llama-server understands by `text` as the value of `key`.

    A bool for a flag, a number for a number where writing it again gives the same text, otherwise the text.
    """
    option = OPTIONS.get(key)
    if option is None:
        return text
    if option.kind == "flag":
        # Whatever is neither true nor false counts as true for a name of the flag, and as false for a negation of it.
        only_true = key in option.negations or option.env.startswith("__PRESET")
        return text in _TRUE if only_true else text not in _FALSE
    if option.kind in ("int", "float"):
        for number in (int, float):
            try:
                if math.isfinite(number(text)) and _number(number(text)) == text:
                    return number(text)
            except ValueError:
                pass
    return text


def meaning(key: str, text: str) -> tuple[str, Any]:
    """The canonical option and the value that `key = text` gives it: equal for two lines that mean the same."""
    name, negated = canonical(key)
    value = from_text(key, text)
    if negated:
        return name, not value
    if OPTIONS.get(key) and OPTIONS[key].kind == "float":
        try:
            return name, float(value)
        except ValueError:
            pass
    return name, value


def _number(value: str | int | float) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _wanted(option: Option) -> str:
    what = {"int": "a whole number", "float": "a number", "json": "JSON", "list": "text or a list"}.get(
        option.kind, "text"
    )
    return " or ".join([what, *option.words])


def _flag_to_text(key: str, option: Option, value: Any) -> str:
    if key == misleading_env(option):
        raise ValueError(f"{key} means {option.name} in a preset, not its opposite; write {option.name}: true or false")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text in _TRUE:
        return "true"
    if text in _FALSE:
        return "false"
    meant = _MEANT.get(text.lower(), "true or false")
    read_as = str(from_text(key, text)).lower()
    raise ValueError(f"{key} takes true or false; llama-server reads {text!r} as {read_as}. Write {key}: {meant}")


def _join(key: str, values: list[Any] | tuple[Any, ...]) -> str:
    texts = []
    for value in values:
        text = _number(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
        if not text or "," in text or text != text.strip():
            raise ValueError(f"{key}: an element of its list must be text or a number without a comma, found {value!r}")
        texts.append(text)
    if not texts:
        raise ValueError(f"{key}: found an empty list; to take the option away give it null")
    return ",".join(texts)


def _unknown_to_text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return _join(key, value)
    if isinstance(value, (str, int, float)):
        return _number(value)
    raise ValueError(f"{key} takes true, false, a number, text or a list, found {type(value).__name__}")
