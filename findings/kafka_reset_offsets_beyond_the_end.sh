#!/usr/bin/env bash
# kafka-consumer-groups --reset-offsets --from-file: an offset beyond the log end is moved to the log end, and a file of
# which a line failed ends with exit code 0.
#
# A script that restores committed offsets from a file by this command, and looks at its exit code, takes offsets for
# restored that are not. The table that the command prints is the only sign.
. "$(dirname "$0")/one_broker.bash"

group() { tool consumer.group.ConsumerGroupCommand "$@"; }

tool TopicCommand --create --topic t --partitions 1 --replication-factor 1 >/dev/null
seq 3 | java -Xmx256m -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$folder/jars/*" \
    org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$server" --topic t >/dev/null

echo "t,0,700" >"$folder/offsets.csv"
code=0
group --group g --reset-offsets --from-file "$folder/offsets.csv" --execute >"$folder/reset" 2>&1 || code=$?
echo "asked for offset 700 of a log that ends at 3; exit code $code:"
cat "$folder/reset"
[ "$code" = 0 ] || changed "exit code $code"
committed=$(group --group g --describe --offsets 2>/dev/null | awk '$2 == "t" { print $4 }')
[ "$committed" = 3 ] || changed "committed is '$committed', not 3"

echo "no-such-topic,0,1" >"$folder/offsets.csv"
code=0
group --group g --reset-offsets --from-file "$folder/offsets.csv" --execute >"$folder/reset" 2>&1 || code=$?
echo "asked for a topic that is not there; exit code $code:"
cat "$folder/reset"
[ "$code" = 0 ] || changed "exit code $code"
grep -qi error "$folder/reset" || changed "no error was printed"
stated "700 became 3, and what failed ended with exit code 0"
