-- Every grant of a request, and why it went there: contracts.scheduler.AttemptRecord. ``attempts`` says how many there were.
alter table inference_requests add column attempt_list jsonb not null default '[]';
