# To be read by bash: /usr/share/bash-completion/completions/batchns, or ~/.local/share/bash-completion/completions/batchns
_batchns_completion() {
    local IFS=$'\n'
    local response

    response=$(env 2>/dev/null COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _BATCHNS_COMPLETE=bash_complete $1)

    for completion in $response; do
        IFS=',' read type value <<< "$completion"

        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=($value)
        fi
    done

    return 0
}

_batchns_completion_setup() {
    complete -o nosort -F _batchns_completion batchns
}

_batchns_completion_setup;

