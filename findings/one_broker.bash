# shellcheck shell=bash
# Sourced by the scripts beside it: one Apache Kafka broker of a pinned version in a temporary folder.
#
# Gives $folder, $server and the functions tool, stated and changed. Exits with 77 where Java or Maven is missing.
set -euo pipefail

kafka_version=4.4.0
for command in java mvn python3; do
    command -v "$command" >/dev/null || { echo "this machine has no $command"; exit 77; }
done
folder=$(mktemp -d)
broker=
finish() {
    [ -z "$broker" ] || { kill "$broker" 2>/dev/null; wait "$broker" 2>/dev/null; } || true
    rm -rf "$folder"
}
trap finish EXIT

cat >"$folder/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>findings</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_version</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
POM
mvn -q -B -f "$folder/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$folder/jars"

run_class() {
    java -Xmx256m -Xshare:auto -XX:TieredStopAtLevel=1 -XX:+UseSerialGC \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$folder/jars/*" "$@"
}

# tool CLASS ARGUMENTS...: one of Kafka's command line tools against the broker.
tool() {
    local class=$1
    shift
    run_class "org.apache.kafka.tools.$class" --bootstrap-server "$server" "$@"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

server=127.0.0.1:$(free_port)
controller=127.0.0.1:$(free_port)
cat >"$folder/broker.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$controller
listeners=PLAINTEXT://$server,CONTROLLER://$controller
advertised.listeners=PLAINTEXT://$server
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/data
log.cleaner.dedupe.buffer.size=8388608
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
PROPERTIES
run_class kafka.tools.StorageTool format -t AAECAwQFBgcICQoLDA0ODw -c "$folder/broker.properties" >/dev/null
run_class kafka.Kafka "$folder/broker.properties" >"$folder/broker.log" 2>&1 &
broker=$!
for _ in $(seq 60); do
    tool TopicCommand --list >/dev/null 2>&1 && break
    sleep 1
done

echo "Apache Kafka $kafka_version, $(java -version 2>&1 | head -1)"
stated() { echo "as stated: $*"; }
changed() { echo "CHANGED: $*"; exit 1; }
