drop procedure audited(regclass, text[]);
drop function audit_change();
drop procedure make_tenant_table(regclass);
drop function sees(text);
drop table outbox;
drop function wake_outbox();
