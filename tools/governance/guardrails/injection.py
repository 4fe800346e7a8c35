# ruff: noqa: E501 - patterns and their texts stand on one line each
"""Signs that a tool's result or another agent's answer tries to give orders: rules with points, found when they come to enough.

Looked for in whole texts only, since single signs occur in ordinary documents. Found is what brought the points.
"""

from __future__ import annotations

import re
from typing import Final

from tools.governance.guardrails.pattern_reading import compiled_pattern

ENOUGH: Final = 10

_EARLIER: Final = r"(?:all |any |the |your |my |these |those |every |of )*(?:previous|prior|above|earlier|preceding|existing|original|former|system) "
_ORDERS: Final = r"(?:instruction|prompt|direction|guideline|rule|order|command|message|constraint|training)s?"
# Points and pattern, on the folded text. Ten are enough alone; what is common in documentation needs company.
_WRITTEN: Final[tuple[tuple[int, str], ...]] = (
    (10, rf"\b(?:ignore|disregard|forget|override|bypass|discard|do not follow|stop following) {_EARLIER}{_ORDERS}\b"),
    (10, r"\b(?:ignore|disregard|forget) (?:everything|all|anything)(?: that)?(?: (?:was|is|you were|you have been|has been))? "
         r"(?:above|before|told|said|so far|until now|previously)\b"),
    (10, r"<\|(?:im_start|im_end|system|user|assistant|endoftext|start_header_id|eot_id)\|>"),
    (10, r"\[/?inst\]|<</?sys>>"),
    (10, r"\b(?:ignoriere|vergiss|missachte) (?:bitte )?(?:alle |die |deine |sämtliche |samtliche )*(?:vorherigen|bisherigen|obigen|fruheren|vorigen) "
         r"(?:anweisungen|instruktionen|befehle|regeln)\b"),
    (10, r"\b(?:ignore[zr]?|oublie[zr]?) (?:toutes |les |tes |vos )*(?:instructions|consignes|regles) (?:precedentes|anterieures|ci-dessus)\b"),
    (10, r"\bignora (?:todas |las |tus )*(?:instrucciones|ordenes) (?:anteriores|previas)\b"),
    (10, r"忽略(?:之前|以上|前面|先前|所有)(?:的)?(?:所有)?(?:的)?(?:指令|指示|提示|说明)"),
    (10, r"!\[[^\]]{0,80}\]\(https?://[^\s)]{1,200}[?&][a-z0-9_]{1,20}=(?:\{|\$|%7b|<|\[)"),
    (10, r"\b(?:reveal|print|show|repeat|output|send|leak|tell me|give me) (?:me )?(?:your |the )(?:full |entire |hidden |secret |original |initial )*"
         r"(?:system prompt|system message|hidden instructions|initial instructions)\b"),
    (6, r"\b(?:do not|don't|never|without) (?:tell|telling|inform|informing|mention|mentioning|reveal|revealing|show|alert|alerting|notify|notifying) "
        r"(?:this |it |that |anything )?(?:to )?(?:the |your )?user\b"),
    (6, r"\byou are (?:now|no longer) (?:a|an|the|in|bound|dan|my|acting|free)\b"),
    (6, r"\bfrom now on,? (?:you (?:are|must|will|should|shall|only|always|answer|respond|act|obey|follow)|your (?:name|role|task|goal|job)|always|only|respond|answer|act)\b"),
    (6, r"(?:^|[\n#>*\[<]) ?(?:new|updated|real|actual|important|admin|developer|system) (?:system )?instructions?\b ?[:>\]]"),
    (6, r"\n ?(?:#{2,} ?)?(?:system|assistant|developer)(?: message| prompt)? ?: ?(?:you|ignore|from|the user|do|call|send|reveal|override|disregard)\b"),
    (6, r"\b(?:send|forward|post|upload|email|transmit|exfiltrate) (?:all |the |this |every |your |user's |users' |any )+"
        r"(?:conversation|chat|history|secrets?|credentials?|passwords?|api keys?|tokens?|files?|data|messages?|context|contents?) (?:to|at|via)\b"),
    (5, r"!\[[^\]]{0,80}\]\(https?://[^\s)]{1,200}[?&](?:q|d|data|payload|secret|token|text|msg|content|c|context|history|prompt)="),
    (5, r"\b(?:jailbreak|dan mode|developer mode enabled|god mode|do anything now)\b"),
    (5, r"\bact as (?:if you (?:are|were)|an? unrestricted|an? unfiltered|my|root|dan)\b"),
    (5, r"\b(?:call|invoke|use|run|execute) the (?:tool|function|command) .{1,60}(?:immediately|first|before (?:answering|responding|anything))\b"),
    (4, r"\bsystem prompt\b"),
    (4, r"\b(?:important|attention|note)(?: message| notice)?(?: to| for) (?:the |all )?(?:ai|llm|language models?|assistants?|agents?|chatbots?)\b"),
    (4, r"\bif you are an? (?:ai|llm|language model|assistant|agent|chatbot|bot)\b"),
    (3, r"<!--.{0,200}\b(?:assistant|ai|llm|agent|instruction)\b"),
)  # fmt: skip
_RULES: Final = tuple((points, compiled_pattern(pattern), r"\n" in pattern) for points, pattern in _WRITTEN)
_ANY: Final = compiled_pattern("|".join(f"(?:{pattern})" for _, pattern in _WRITTEN), checked=False)
# Text in characters that nobody sees: tags (but for flags of regions), zero-width ones, variation selectors.
HIDDEN_TEXT: Final = re.compile(
    "(?<!\U0001f3f4)[\U000e0020-\U000e007f]{8,}|[\u200b-\u200d\u2060-\u2064\ufeff]{12,}|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{8,}"
)


def injection_spans(plain: str, folded: str) -> list[tuple[int, int]]:
    """Where a text gives itself away, in order; empty when what there is does not come to enough."""
    lined = _in_lines(plain, folded) if "\n" in plain else folded
    if _ANY.search(folded) is None and (lined is folded or _ANY.search(lined) is None):
        return []
    total = 0
    spans: list[tuple[int, int]] = []
    for points, pattern, by_line in _RULES:
        found = [match.span() for match in pattern.finditer(lined if by_line else folded)]
        total += points if found else 0
        spans.extend(found)
    return sorted(spans) if total >= ENOUGH else []


def _in_lines(plain: str, folded: str) -> str:
    """The folded text with the line breaks of the plain one."""
    lines: list[str] = []
    start = 0
    for line in plain.split("\n"):
        lines.append(folded[start : start + len(line)])
        start += len(line) + 1
    return "\n".join(lines)
