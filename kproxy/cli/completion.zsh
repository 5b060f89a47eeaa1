#compdef kproxy
# zsh completion for kproxy. Load it with: source <(kproxy completion zsh)

_kproxy_names() {
    local -a names
    local asked="$("$_kproxy_program" @names@ $1 "${_kproxy_typed[@]}" 2>/dev/null)"
    names=("${(@f)asked}")
    if [[ $2 == list ]]; then _values -s , "$1" "${(@)names//:/\\:}"
    else compadd "${@:2}" -a names; fi
}

_kproxy() {
    local _kproxy_program="${(Q)words[1]/#\~/$HOME}"
    local -a _kproxy_typed=("${(@Q)words[2,CURRENT-1]}") common settings subcommands
    local curcontext=$curcontext state line
    typeset -A opt_args
    common=(
        @common@
    )
    settings=(
        @settings@
    )
    subcommands=(
        @subcommands@
    )
    _arguments -C -S $common $settings '1:command:->command' '*::word:->word' && return
    case $state in
        command) _describe -t commands command subcommands ;;
        word)
            case $line[1] in
                @words@
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _kproxy ]]; then _kproxy "$@"; else compdef _kproxy kproxy; fi
