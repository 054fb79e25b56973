#!/bin/sh
# usage: count.sh STRATA GUEST...: each guest, which must have no interrupts, executes as many instructions interpreted as
# translated, to the last one.
strata=$1
shift
count() {
	"$strata" run --engine soft --nested vt-x --memory 64M --test-devices --debug-exit 0xf4 --serial stdio \
		--kernel "$@" --stats=json </dev/null 2>&1 >/dev/null | sed -n 's/.*"instructions": *\([0-9]*\).*/\1/p'
}
echo "1..$#"
failed=0
for guest; do
	name=$(basename "$guest")
	expected=$(count "$guest" --interpret)
	line="ok - $name executes ${expected:-no} instructions, however it runs"
	[ -n "$expected" ] || line="not $line"
	for mode in --translate --check-translation; do
		for after in 1 3; do
			found=$(count "$guest" $mode --translate-after $after)
			[ "$found" = "$expected" ] || line="not ok - $name executes $expected instructions, with $mode after $after $found"
		done
	done
	echo "$line"
	case $line in not*) failed=1 ;; esac
done
exit $failed
