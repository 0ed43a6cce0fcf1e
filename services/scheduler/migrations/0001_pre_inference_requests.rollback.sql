drop table inference_requests;
