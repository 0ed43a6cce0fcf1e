alter table inference_requests drop column attempt_list;
