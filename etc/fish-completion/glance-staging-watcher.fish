# SPDX-License-Identifier: Apache-2.0
# Completion of glance-staging-watcher in fish
# Written by make completion; don't edit it.

complete -c glance-staging-watcher -f
complete -c glance-staging-watcher -n __fish_use_subcommand -a sweep -d 'one sweep, or what it would do'
complete -c glance-staging-watcher -n __fish_use_subcommand -a status -d 'the state at a glance'
complete -c glance-staging-watcher -n __fish_use_subcommand -a check -d 'whether all is set up well'
complete -c glance-staging-watcher -n __fish_use_subcommand -a history -d 'past removals, from the audit log'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l dry-run -d 'remove nothing; say what would be done'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l nodry-run
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l trust-database -d 'remove files without a database row although no image file here has one: say that [database] connection is this Glance'"'"'s database'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep' -l notrust-database
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from sweep status check history' -l format -x -a 'table json' -d 'a table for people, or JSON for programs'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from status' -l all -d 'list all files, however many, also those that stay'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from status' -l noall
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from history' -l since -x -d 'only removals since then: an age as 90m, 12h, 2d or 1w, or a date as 2026-11-25 or 2026-11-25T10:00'
complete -c glance-staging-watcher -n '__fish_seen_subcommand_from history' -l image -x -d 'only files of this image'
complete -c glance-staging-watcher -l config-file -r -F -d 'a configuration file; may be repeated; replaces those that are read by default'
complete -c glance-staging-watcher -l config-dir -x -a '(__fish_complete_directories)' -d 'a directory whose *.conf files are read after those named before'
complete -c glance-staging-watcher -l debug -s d -d 'log what is looked at and removed, in the words of Glance'"'"'s cleaner'
complete -c glance-staging-watcher -l nodebug
complete -c glance-staging-watcher -l log-file -l logfile -r -F -d 'where to log'
complete -c glance-staging-watcher -l log-dir -l logdir -x -a '(__fish_complete_directories)' -d 'where a relative log file is'
complete -c glance-staging-watcher -l log-config-append -l log-config -l log_config -r -F -d 'a logging configuration of Python'"'"'s; replaces all other logging options'
complete -c glance-staging-watcher -l log-date-format -x -d 'how the log writes the time'
complete -c glance-staging-watcher -l use-journal -d 'log to the journal of systemd'
complete -c glance-staging-watcher -l nouse-journal
complete -c glance-staging-watcher -l use-syslog -d 'log to syslog'
complete -c glance-staging-watcher -l nouse-syslog
complete -c glance-staging-watcher -l syslog-log-facility -x -a 'auth authpriv cron daemon kern local0 local1 local2 local3 local4 local5 local6 local7 lpr mail news syslog user uucp' -d 'facility of syslog'
complete -c glance-staging-watcher -l use-json -d 'log each line as JSON'
complete -c glance-staging-watcher -l nouse-json
complete -c glance-staging-watcher -l shell_completion -x -a 'bash zsh' -d 'an option of oslo.config that knows no commands; see the completion that is installed'
complete -c glance-staging-watcher -l version -d 'print the version and exit'
complete -c glance-staging-watcher -l help -s h -d 'print this help and exit'
