#!/bin/sh
# check-node.sh VERSION: one sentence and status 1 unless this version of Node runs the tools of this project.
# Plain sh: it is asked before there are npm packages, and of a Node that may be too old for our sources.
#
# The versions are those of vite, which runs the tests: the first that `require` modules without a flag.
version=${1#v}
major=${version%%.*}
rest=${version#*.}
minor=${rest%%[!0-9]*}

case $major in
  '' | *[!0-9]* | 21) false ;;
  20) [ "${minor:-0}" -ge 19 ] ;;
  22) [ "${minor:-0}" -ge 12 ] ;;
  *) [ "$major" -gt 22 ] ;;
esac && exit 0

found=${version:+Node $version will not do}
echo "${found:-There is no Node}: 20.19 or later (of 22: 22.12 or later) is needed, such as Debian 13's" \
  "or the one of https://nodejs.org/en/download" >&2
exit 1
