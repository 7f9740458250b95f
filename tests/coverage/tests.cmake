# The tests whose branches count, those of the code that judges what comes from the other side; with
# AGL_COVERAGE no others are built. branches.py looks at what they took.
set(coverage_tests
    test_layout test_ring test_doorbell test_region
    test_intake test_handshake test_session test_request test_listener
    test_access test_guard test_access_faults test_guard_faults
    test_control test_control_log test_control_refusals test_control_remains test_control_stop test_board
    test_engine test_engine_order test_engine_limits test_engine_wait
    test_engine_kept test_engine_open
    test_client test_client_board test_client_events test_client_generate
    test_client_faults test_wait_faults test_engine_faults
    test_handshake_faults test_connection_faults test_burial_faults test_board_faults
    replay_hello replay_submission replay_region)
