"""Statement 2: while the conference service is stopped, re-posting an attendance is refused and harms nothing."""

from tests.integration.statements.stage import Stage


def test_reposting_while_conference_is_stopped_is_503_and_harms_nothing(stage: Stage) -> None:
    event, author, newcomer = stage.event(), stage.author(), stage.author()
    operation = stage.created(event, author)
    with stage.stopped("conference"):
        # More often than it takes to open the breaker, so the answer of an open one is among them.
        answers = [stage.create(event, author) for _ in range(8)]
        answers.append(stage.create(event, newcomer))
        for answer in answers:
            assert (answer.status, answer.body["code"]) == (503, "service-unavailable"), answer.says()
            assert answer.body["service"] == "conference"
            assert int(answer.headers["retry-after"]) >= 0
        held = stage.live(event, author)
    assert held == {"author": [operation], "conference": [operation]}
    stage.recovered()
    assert stage.shown(event, author) == ([operation], [operation])
    stage.next_settlement()
    assert stage.shown(event, author) == ([operation], [operation])
    assert stage.live(event, newcomer) == {"author": [], "conference": []}
    again = stage.create(event, author)
    assert (again.status, again.body["operation"]) == (200, operation)
