drop trigger audit_truncate on signing_keys;
drop trigger audit on signing_keys;
drop table audit_archives;
drop table audit_head;
drop table audit_key;
drop procedure make_audit_partition(date);
drop table audit_log;
drop function refuse_change();
