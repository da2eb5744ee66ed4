"""What C text mentions and defines."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes import names


def test_what_a_program_defines_is_told_from_what_it_uses() -> None:
    defined = names.defined_in(
        names.strip_comments(
            """
            #define LIMIT 8
            #  define WIDE(x) (x)
            enum mode { MODE_USER, /* , MODE_COMMENTED */ MODE_CALL = LIMIT };
            enum { NAMELESS };
            struct answer { struct sock *sk; enum other used; };
            typedef unsigned int small_t;
            typedef struct { int x; } pair_t;
            union both { int i; };
            static int f(struct task_struct *t) { enum kept k = USED; return k; }
            """
        )
    )
    assert defined.tags == {"mode", "answer", "both"}
    assert defined.identifiers == {"LIMIT", "WIDE", "MODE_USER", "MODE_CALL", "NAMELESS"}
    assert {"small_t", "pair_t"} <= defined.typedefs
    assert "used" not in defined.typedefs


def test_tags_and_type_names_come_once_and_in_order() -> None:
    text = "struct b *x; struct a *y; struct b *z; size_t n = (gfp_t)0; poll_table *wait;"
    assert names.tags(text) == ("b", "a")
    assert {"size_t", "gfp_t", "poll_table"} <= set(names.type_names(text))


def test_a_tracepoint_gives_the_types_of_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = tmp_path / "events" / "sock" / "inet_sock_set_state"
    event.mkdir(parents=True)
    (event / "format").write_text(
        "name: inet_sock_set_state\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n"
        "\tfield:enum sock_type kind;\toffset:16;\tsize:4;\tsigned:0;\n"
    )
    monkeypatch.setattr(names, "TRACEFS", (tmp_path / "not mounted", tmp_path))

    by_macro = names.tracepoint_fields("TRACEPOINT_PROBE(sock, inet_sock_set_state) { return 0; }")
    by_name = names.tracepoint_fields("int f(struct tracepoint__sock__inet_sock_set_state *args);")

    assert names.tags(by_macro) == ("sock_type",)
    assert by_name == by_macro
    assert names.tracepoint_fields("TRACEPOINT_PROBE(sock, nothing)") == ""
