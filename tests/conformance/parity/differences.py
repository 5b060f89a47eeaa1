"""Where kproxy differs from kubectl proxy on purpose. Each key stands in the README's table."""

from __future__ import annotations

REFUSAL_STATUS = "refusal-status"
FAILURE_STATUS = "failure-502"
OWN_NAME = "own-user-agent"
SPELLING = "header-spelling"
TARGET_BYTES = "target-bytes"
CLEANED_308 = "clean-path-308"
SERVICE_PATHS = "service-paths"
READINGS = "every-reading"
PREFIX_BYTES = "prefix-bytes"
OUTSIDE_PREFIX = "outside-prefix"
SERVER_PATH = "server-path"
IP6_HOST = "host-ipv6"
HOST_CASE = "host-case"
HOST_SYNTAX = "host-syntax"
GUARD_FIRST = "guards-first"
BROWSER_GUARD = "browser-guard"
STATIC_GUARD = "static-guard"
STATIC_METHODS = "static-methods"
STATIC_LINKS = "static-links"
METHODS = "connect-and-trace"
METHOD_CASE = "method-case"
AMBIGUOUS = "ambiguous-http"
LENIENT_START = "empty-line-first"
HEAD_LIMIT = "head-limit"
EXTRA_FIELDS = "small-fields"
NO_SNIFFING = "no-sniffing"
H2C = "h2c-ignored"
NOT_UPGRADED = "upgrade-words"
HALF_CLOSE = "half-close"
UPLOAD_TRAILERS = "upload-trailers"
EARLY_BYTES = "early-bytes"
CUT_IS_RESET = "cut-is-reset"
EXPECTATION = "expectation"
REASON = "reason-phrase"
WORDS = "words-too-many"

DIFFERENCES: dict[str, str] = {
    REFUSAL_STATUS: "A refusal is a Status that names the rule; kubectl says Forbidden.",
    FAILURE_STATUS: "A failure towards the API server is 502 or 504 with a Status; kubectl says 500.",
    OWN_NAME: "User-Agent is kproxy's for clients that send none.",
    SPELLING: "Header names keep their spelling; Go writes them in its own.",
    TARGET_BYTES: "Characters that Go would percent-encode in a path are forwarded as they came.",
    CLEANED_308: "A path that is not clean is 308 for other methods than GET and HEAD; kubectl says 301.",
    SERVICE_PATHS: "Behind .../proxy/ of a service, pod or node the path is passed on byte for byte.",
    READINGS: "Filters judge every reading of a path; encoded dots and the like pass kubectl's.",
    PREFIX_BYTES: "A stripping --api-prefix keeps the bytes of the path; kubectl decodes %2F.",
    OUTSIDE_PREFIX: "A path outside of the API prefix is 404 with a Status.",
    SERVER_PATH: "The path of the server URL is put before each request; kubectl does so when told.",
    IP6_HOST: "[::1]:8001 is an accepted host.",
    HOST_CASE: "Host names are compared without regard to case.",
    HOST_SYNTAX: "A Host that is no host with a port is refused; kubectl takes what is before the colon.",
    GUARD_FIRST: "Host and browser guards come before the redirect to a clean path.",
    BROWSER_GUARD: "What pages of other sites ask for is refused.",
    STATIC_GUARD: "The host filter is for static files, too.",
    STATIC_METHODS: "Static files answer GET and HEAD only.",
    STATIC_LINKS: "A symbolic link out of the static folder is 403.",
    METHODS: "CONNECT and TRACE are 405.",
    METHOD_CASE: "--reject-methods matches lower-case methods, too.",
    AMBIGUOUS: "HTTP that two parsers may read in two ways is 400; Go repairs some of it.",
    LENIENT_START: "One empty line before a request is ignored, as RFC 9112 says; kubectl says 400.",
    HEAD_LIMIT: "A field may have 64 KB, a head 256 KB; kubectl takes 1 MiB in all.",
    EXTRA_FIELDS: "Empty X-Forwarded-For and second Authorization are dropped, an empty Accept-Encoding "
    "stays as it is, a Pragma alone.",
    NO_SNIFFING: "An answer without Content-Type gets none; Go guesses one.",
    H2C: "An upgrade to HTTP again, such as h2c, is ignored; kubectl answers 500.",
    NOT_UPGRADED: "Connection: Upgrade without an Upgrade field, or a word that only contains it, is none.",
    HALF_CLOSE: "A client that half-closed still gets its answer; kubectl cancels the request.",
    UPLOAD_TRAILERS: "Trailers of an upload are passed on; kubectl announces them and drops them.",
    EARLY_BYTES: "Bytes that a client sends before the 101 of its upgrade arrive; kubectl loses them.",
    CUT_IS_RESET: "An answer that breaks off ends with a reset, so that HTTP/1.0 clients notice.",
    WORDS: "A word that no flag takes is an error; kubectl takes no notice of it.",
    REASON: "The reason phrase of an answer is the API server's; kubectl writes the usual one.",
    EXPECTATION: "An Expect other than 100-continue is passed on; kubectl answers 417.",
}
