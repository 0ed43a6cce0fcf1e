"""Go's text/template as far as Modelfile templates need it, and what Ollama makes of it; see decision 0005."""

from libs.common.go_template.nodes import TemplateError
from libs.common.go_template.prompt import render_chat, render_insert
from libs.common.go_template.template import Template, parse
from libs.common.go_template.traits import capabilities, thinking_tags, tool_call_tag

__all__ = [
    "Template",
    "TemplateError",
    "capabilities",
    "parse",
    "render_chat",
    "render_insert",
    "thinking_tags",
    "tool_call_tag",
]
