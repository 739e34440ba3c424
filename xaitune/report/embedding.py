"""Style, script and data inside the page, and the policy that lets a browser use these and nothing else."""

import base64
import hashlib
import json
from typing import Any

import jinja2
from markupsafe import Markup

SCRIPTS = ("viewer.js", "confusion.js", "charts.js", "sweep.js", "thresholds.js", "copy.js")


def inline_parts(environment: jinja2.Environment, data: dict[str, Any]) -> dict[str, Any]:
    """What the template puts inside the page: `style`, `script`, `script_data`, and the `policy` of the page."""
    style = environment.get_template("report.css").render()
    script = "\n".join(environment.get_template(name).render() for name in SCRIPTS)
    return {
        "style": Markup(style),
        "script": Markup(script),
        "script_data": Markup(script_json(data)),
        "policy": content_policy(style, script),
    }


def content_policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows this style, this script and pictures inside the page, and no request at all."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(data: Any) -> str:
    """JSON that no text in it can end or turn into markup, whatever a class or a file is named.

    Examples:
        >>> script_json(["</script>"])
        '["\\\\u003c/script\\\\u003e"]'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
