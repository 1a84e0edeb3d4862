# SPDX-License-Identifier: Apache-2.0
# Completion of glance-staging-watcher in fish

complete -c glance-staging-watcher -f
complete -c glance-staging-watcher -n __fish_use_subcommand -a sweep -d 'one sweep'
complete -c glance-staging-watcher -n __fish_use_subcommand -a status -d 'the state at a glance'
complete -c glance-staging-watcher -n __fish_use_subcommand -a check -d 'whether all is set up well'
complete -c glance-staging-watcher -n __fish_use_subcommand -a history -d 'what was removed'

complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l dry-run -d 'remove nothing'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l nodry-run
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l trust-database -d 'this is the database of this Glance'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l notrust-database
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from status' -l all -d 'list all files'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from status' -l noall
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from history' -l since -x -d 'an age or a time'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from history' -l image -x -d 'id of an image'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep status check history' -l format -x -a 'table json'

complete -c glance-staging-watcher -l config-file -r -F -d 'a configuration file'
complete -c glance-staging-watcher -l config-dir -x -a '(__fish_complete_directories)' -d 'a directory of them'
complete -c glance-staging-watcher -l debug -s d -d 'log what is looked at and removed'
complete -c glance-staging-watcher -l nodebug
complete -c glance-staging-watcher -l log-file -l logfile -r -F -d 'where to log'
complete -c glance-staging-watcher -l log-dir -l logdir -x -a '(__fish_complete_directories)'
complete -c glance-staging-watcher -l log-config-append -l log-config -l log_config -r -F
complete -c glance-staging-watcher -l log-date-format -x
complete -c glance-staging-watcher -l syslog-log-facility -x -a 'daemon local0 local1 local2 local3 local4 local5 local6 local7 syslog user'
complete -c glance-staging-watcher -l use-syslog -d 'log to syslog'
complete -c glance-staging-watcher -l nouse-syslog
complete -c glance-staging-watcher -l use-journal -d 'log to the journal'
complete -c glance-staging-watcher -l nouse-journal
complete -c glance-staging-watcher -l use-json -d 'log lines as JSON'
complete -c glance-staging-watcher -l nouse-json
complete -c glance-staging-watcher -l shell_completion -x -a 'bash zsh'
complete -c glance-staging-watcher -l version -d 'print the version'
complete -c glance-staging-watcher -l help -s h -d 'print a help'
