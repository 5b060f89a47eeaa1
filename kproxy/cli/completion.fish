# fish completion for kproxy. Load it with: kproxy completion fish | source

function __kproxy_names
    set -l typed (commandline -opc)
    $typed[1] @names@ $argv[1] $typed[2..-1] 2>/dev/null
end

function __kproxy_words
    # The words that are neither flags nor their values: the command, and what is behind it.
    set -l is_value
    for word in (commandline -opc)[2..-1]
        if test -n "$is_value"
            set is_value
        else if contains -- $word @valued@
            set is_value yes
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __kproxy_is
    set -l command (__kproxy_words)[1]
    not __kproxy_is_anothers; and contains -- "$command" $argv
end

function __kproxy_is_anothers
    # Whether what is typed is the command line of another program.
    set -l words (__kproxy_words)
    contains -- "$words[1]" @runners@; and begin
        test (count $words) -gt 1; or contains -- -- (commandline -opc)
    end
end

complete -c kproxy -f
@completions@
