# bash completion for kproxy. Load it with: source <(kproxy completion bash)

_kproxy_words() {
    case "$1" in
        @words@
    esac
}

_kproxy_names() {
    # Quoted: whoever wrote the kubeconfig is not to write what this shell runs.
    local name
    "$program" @names@ "$1" "${typed[@]}" |
        while IFS= read -r name; do printf '%q\n' "$name"; done
}

_kproxy_values() {
    case "$1" in
        @values@
    esac 2>/dev/null
}

_kproxy() {
    local settings="@settings@"
    local words=() origins=() typed=() line=${COMP_LINE:0:COMP_POINT} word i
    # Words as the shell has them: bash has split them at = and : as well.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $i == 0 || $line == [[:blank:]]* ]]; then
            line=${line#"${line%%[![:blank:]]*}"}
            words+=("$word") origins+=("$i")
        else
            words[${#words[@]}-1]+=$word
        fi
        line=${line#"$word"}
    done
    local last=$((${#words[@]} - 1))
    local current=${words[last]} command='' flag='' is_over=''
    local program=${words[0]/#\~/$HOME}
    typed=("${words[@]:1:last-1}")
    for ((i = 1; i < last; i++)); do
        word=${words[i]}
        if [[ $flag ]]; then
            flag=''
            continue
        fi
        case $is_over$word in
            --) is_over=1 ;;
            @valued@) flag=$word ;;
            -?*) ;;
            *)
                if [[ -z $command ]]; then
                    command=$word
                    continue
                fi
                case $command in @runners@) break ;; esac
                ;;
        esac
    done
    case $command in
        @runners@)
            # What stands there is the command line of another program.
            if [[ $i -lt $last || $is_over || ($current != -* && -z $flag) ]]; then
                [[ $i -gt $last ]] && i=$last
                if [[ $i == "$last" ]]; then
                    COMPREPLY=($(compgen -c -- "$current"))
                elif declare -F _comp_command_offset >/dev/null; then
                    _comp_command_offset "${origins[i]}"
                elif declare -F _command_offset >/dev/null; then
                    _command_offset "${origins[i]}"
                else
                    compopt -o filenames 2>/dev/null
                    COMPREPLY=($(compgen -f -- "$current"))
                fi
                return
            fi
            ;;
    esac
    local prefix='' value=$current
    if [[ -z $flag && -z $is_over && $current == --*=* ]]; then
        flag=${current%%=*} value=${current#*=} prefix=${current%%=*}=
    fi
    COMPREPLY=()
    if [[ $flag ]]; then
        case $flag in
            @files@) compopt -o filenames 2>/dev/null ;;
            @lists@) prefix+=${value%"${value##*,}"} value=${value##*,} ;;
        esac
        while IFS= read -r word; do
            [[ $word == "$value"* ]] && COMPREPLY+=("$prefix$word")
        done < <(_kproxy_values "$flag" "$value")
    elif [[ -z $is_over ]]; then
        for word in $(_kproxy_words "$command"); do
            # Flags only for who has begun one: what is most likely meant is a word.
            [[ $word == "$value"* && ($word != -* || $value == -*) ]] && COMPREPLY+=("$word")
        done
    fi
    # Readline replaces what stands behind the last = or :, and from the last @ on.
    local breaks='' rest
    for word in = :; do
        [[ $COMP_WORDBREAKS == *"$word"* ]] && breaks+=$word
    done
    prefix=''
    [[ $breaks ]] && prefix=${current%"${current##*[$breaks]}"}
    rest=${current#"$prefix"}
    [[ $COMP_WORDBREAKS == *@* && $rest == *@* ]] && prefix+=${rest%@*}
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}

complete -F _kproxy kproxy
