drop table node_reports;
drop table nodes;
drop table stored_exchanges;
drop index inference_requests_by_end;
drop index inference_requests_by_user;
drop policy own_organization on inference_requests;
alter table inference_requests no force row level security;
alter table inference_requests disable row level security;
