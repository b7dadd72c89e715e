"""The local broker: up, down, and up again on its data."""

import pytest
from kafka import KafkaConsumer, KafkaProducer

from deploy.local_kafka import LocalKafka, unavailable_reason


@pytest.mark.parametrize("kill", [False, True])
def test_data_outlives_a_restart(can_run_kafka: None, kill: bool) -> None:
    with LocalKafka(brief=True) as kafka:
        kafka.create_topics({"letters": 1})
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        producer.send("letters", b"a").get(10)
        producer.close()
        address = kafka.bootstrap
        kafka.restart(kill=kill)
        assert kafka.bootstrap == address
        consumer = KafkaConsumer(
            "letters", bootstrap_servers=address, auto_offset_reset="earliest", group_id=None
        )
        assert next(consumer).value == b"a"
        consumer.close()
        folder = kafka.folder
    assert not folder.exists()


def test_topics_are_created_once(kafka: LocalKafka) -> None:
    kafka.create_topics({"custody.once": 3})
    kafka.create_topics({"custody.once": 5})
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)
    assert consumer.partitions_for_topic("custody.once") == {0, 1, 2}
    consumer.close()


def test_missing_java_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    reason = unavailable_reason()
    assert reason is not None
    assert "Java 17" in reason
