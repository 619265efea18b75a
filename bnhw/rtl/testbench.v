// Loads a program into the engine through its host port, runs images, and compares every raw sum, result, stored number,
// the cycles of every step and the output tensor with the vectors beside it. Runs under Verilator and Icarus alike.
// vectors.vh holds the engine's parameters and the sizes; the .mem files are read by $readmemh.
`include "vectors.vh"
module testbench;
    reg clk, reset, start, host_valid, host_write;
    reg [2:0] host_memory;
    reg [23:0] host_address;
    reg [`HOST_BITS-1:0] host_data;
    wire idle, step_done, done, host_ready, host_answer_valid;
    wire [31:0] saturations;
    wire [`HOST_BITS-1:0] host_answer;
    wire raw_valid, q_valid, number_valid;
    wire [`PE*`ACC_BITS-1:0] raw;
    wire [`PE*`RESULT_BITS-1:0] q, number;
    engine #(`ENGINE_PARAMETERS) dut (
        .clk(clk), .reset(reset), .start(start), .idle(idle), .step_done(step_done), .done(done),
        .saturations(saturations), .host_valid(host_valid), .host_ready(host_ready), .host_write(host_write),
        .host_memory(host_memory), .host_address(host_address), .host_data(host_data),
        .host_answer_valid(host_answer_valid), .host_answer(host_answer), .probe_raw_valid(raw_valid),
        .probe_raw(raw), .probe_q_valid(q_valid), .probe_q(q), .probe_number_valid(number_valid),
        .probe_number(number)
    );

    reg [`WORD_BITS-1:0] words [0:`MOST_WORDS-1];
    reg [`PE*`ACC_BITS-1:0] expected_raw [0:`IMAGES*`RESULTS-1];
    reg [`PE*`RESULT_BITS-1:0] expected_q [0:`IMAGES*`RESULTS-1];
    reg [`PE*`RESULT_BITS-1:0] expected_number [0:`IMAGES*`RESULTS-1];
    reg [15:0] lanes_used [0:`RESULTS-1];
    reg [15:0] step_of [0:`RESULTS-1];
    reg [31:0] first_result [0:`STEPS-1];
    reg [15:0] blocks_of [0:`STEPS-1];
    reg [31:0] expected_cycles [0:`STEPS-1];
    reg [31:0] expected_saturations [0:`IMAGES*`STEPS-1];
    reg [8*`NAME_LETTERS-1:0] names [0:`STEPS-1];
    reg [`WORD_BITS-1:0] inputs [0:`IMAGES*`INPUT_WORDS-1];
    reg [`WORD_BITS-1:0] outputs [0:`IMAGES*`OUTPUT_WORDS-1];
    reg [`WORD_BITS-1:0] output_masks [0:`OUTPUT_WORDS-1];

    integer image, step, cycle, step_start, raws, qs, numbers, lane, word, beat, failures;
    integer step_cycles [0:`STEPS-1];

    always #5 clk = !clk;

    // Everything is driven and looked at while the clock falls, so that nothing depends on the order of events.
    task write_word(input [2:0] memory, input [23:0] address, input integer beats, input [`WORD_BITS-1:0] value);
        begin
            for (beat = 0; beat < beats; beat = beat + 1) begin
                host_valid = 1;
                host_write = 1;
                host_memory = memory;
                host_address = address;
                host_data = value[beat*`HOST_BITS +: `HOST_BITS];
                @(negedge clk);
            end
            host_valid = 0;
        end
    endtask

    task load(input [2:0] memory, input integer count, input integer beats);
        for (word = 0; word < count; word = word + 1) write_word(memory, word[23:0], beats, words[word]);
    endtask

    reg [`WORD_BITS-1:0] answer;
    task read_word(input [2:0] memory, input [23:0] address, input integer beats);
        begin
            host_valid = 1;
            host_write = 0;
            host_memory = memory;
            host_address = address;
            @(negedge clk);
            host_valid = 0;
            while (!host_answer_valid) @(negedge clk);
            answer = 0;
            for (beat = 0; beat < beats; beat = beat + 1) begin
                answer[beat*`HOST_BITS +: `HOST_BITS] = host_answer;
                @(negedge clk);
            end
        end
    endtask

    integer at;
    task differs(input integer result, input signed [63:0] found, input signed [63:0] expected, input [8*12-1:0] what);
        begin
            at = result - first_result[step_of[result]];
            if (failures == 0)
                $display("FIRST DIFFERENCE: image %0d, step %0d (%0s), pixel %0d, channel %0d, cycle %0d: %0s %0d, %0d expected",
                    image, step_of[result], names[step_of[result]], at / blocks_of[step_of[result]],
                    at % blocks_of[step_of[result]] * `PE + lane, cycle, what, found, expected);
            failures = failures + 1;
        end
    endtask

    task check_results;
        begin
            if (raw_valid) begin
                for (lane = 0; lane < lanes_used[raws]; lane = lane + 1)
                    if (raw[lane*`ACC_BITS +: `ACC_BITS]
                        !== expected_raw[image*`RESULTS+raws][lane*`ACC_BITS +: `ACC_BITS])
                        differs(raws, $signed(raw[lane*`ACC_BITS +: `ACC_BITS]),
                            $signed(expected_raw[image*`RESULTS+raws][lane*`ACC_BITS +: `ACC_BITS]), "raw sum");
                raws = raws + 1;
            end
            if (q_valid) begin
                for (lane = 0; lane < lanes_used[qs]; lane = lane + 1)
                    if (q[lane*`RESULT_BITS +: `RESULT_BITS]
                        !== expected_q[image*`RESULTS+qs][lane*`RESULT_BITS +: `RESULT_BITS])
                        differs(qs, $signed(q[lane*`RESULT_BITS +: `RESULT_BITS]),
                            $signed(expected_q[image*`RESULTS+qs][lane*`RESULT_BITS +: `RESULT_BITS]), "post result");
                qs = qs + 1;
            end
            if (number_valid) begin
                for (lane = 0; lane < lanes_used[numbers]; lane = lane + 1)
                    if (number[lane*`RESULT_BITS +: `RESULT_BITS]
                        !== expected_number[image*`RESULTS+numbers][lane*`RESULT_BITS +: `RESULT_BITS])
                        differs(numbers, $signed(number[lane*`RESULT_BITS +: `RESULT_BITS]),
                            $signed(expected_number[image*`RESULTS+numbers][lane*`RESULT_BITS +: `RESULT_BITS]),
                            "number");
                numbers = numbers + 1;
            end
            if (step_done) begin
                step_cycles[step] = cycle - step_start;
                if (step_cycles[step] !== expected_cycles[step]) begin
                    if (failures == 0)
                        $display("FIRST DIFFERENCE: image %0d, step %0d (%0s): %0d cycles found, %0d expected",
                            image, step, names[step], step_cycles[step], expected_cycles[step]);
                    failures = failures + 1;
                end
                if (saturations !== expected_saturations[image*`STEPS+step]) begin
                    if (failures == 0)
                        $display("FIRST DIFFERENCE: image %0d, step %0d (%0s): %0d sums clamped so far, %0d expected",
                            image, step, names[step], saturations, expected_saturations[image*`STEPS+step]);
                    failures = failures + 1;
                end
                step_start = cycle;
                step = step + 1;
            end
        end
    endtask

    // The cycle after `start` is 1; it is the first of the first step.
    task run_image;
        reg running;
        begin
            for (word = 0; word < `INPUT_WORDS; word = word + 1)
                write_word(`INPUT_MEMORY, `INPUT_ADDRESS + word[23:0], `INPUT_BEATS, inputs[image*`INPUT_WORDS+word]);
            @(negedge clk);
            step = 0;
            raws = 0;
            qs = 0;
            numbers = 0;
            step_start = 0;
            start = 1;
            @(negedge clk);
            start = 0;
            running = 1;
            for (cycle = 1; running; cycle = cycle + 1) begin
                check_results;
                running = !done && cycle < `MOST_CYCLES;
                @(negedge clk);
            end
            if (step != `STEPS || raws != `RESULTS || qs != `RESULTS || numbers != `RESULTS) begin
                $display("FAIL: image %0d: %0d steps and %0d, %0d, %0d results, %0d and %0d expected",
                    image, step, raws, qs, numbers, `STEPS, `RESULTS);
                failures = failures + 1;
            end
            for (word = 0; word < `OUTPUT_WORDS; word = word + 1) begin
                read_word(`OUTPUT_MEMORY, `OUTPUT_ADDRESS + word[23:0], `OUTPUT_BEATS);
                if ((answer & output_masks[word]) !== (outputs[image*`OUTPUT_WORDS+word] & output_masks[word])) begin
                    if (failures == 0)
                        $display("FIRST DIFFERENCE: image %0d, word %0d of the output tensor: %0h found, %0h expected",
                            image, word, answer & output_masks[word], outputs[image*`OUTPUT_WORDS+word]);
                    failures = failures + 1;
                end
            end
        end
    endtask

    initial begin
        clk = 0;
        reset = 1;
        start = 0;
        host_valid = 0;
        host_write = 0;
        host_memory = 0;
        host_address = 0;
        host_data = 0;
        failures = 0;
        repeat (2) @(negedge clk);
        reset = 0;
        if (`WEIGHTS_WORDS > 0) begin
            $readmemh("memory/weights.mem", words, 0, `WEIGHTS_WORDS - 1);
            load(3'd2, `WEIGHTS_WORDS, `WEIGHTS_BEATS);
        end
        if (`CONSTANTS_WORDS > 0) begin
            $readmemh("memory/constants.mem", words, 0, `CONSTANTS_WORDS - 1);
            load(3'd3, `CONSTANTS_WORDS, `CONSTANTS_BEATS);
        end
        if (`THRESHOLDS_WORDS > 0) begin
            $readmemh("memory/thresholds.mem", words, 0, `THRESHOLDS_WORDS - 1);
            load(3'd4, `THRESHOLDS_WORDS, `THRESHOLDS_BEATS);
        end
        if (`LOOKUPS_WORDS > 0) begin
            $readmemh("memory/lookups.mem", words, 0, `LOOKUPS_WORDS - 1);
            load(3'd5, `LOOKUPS_WORDS, `LOOKUPS_BEATS);
        end
        if (`CLASSES_WORDS > 0) begin
            $readmemh("memory/classes.mem", words, 0, `CLASSES_WORDS - 1);
            load(3'd6, `CLASSES_WORDS, `CLASSES_BEATS);
        end
        if (`DESCRIPTORS_WORDS > 0) begin
            $readmemh("memory/descriptors.mem", words, 0, `DESCRIPTORS_WORDS - 1);
            load(3'd7, `DESCRIPTORS_WORDS, `DESCRIPTORS_BEATS);
        end
        $readmemh("vectors/raw.mem", expected_raw);
        $readmemh("vectors/q.mem", expected_q);
        $readmemh("vectors/number.mem", expected_number);
        $readmemh("vectors/lanes.mem", lanes_used);
        $readmemh("vectors/step.mem", step_of);
        $readmemh("vectors/first_result.mem", first_result);
        $readmemh("vectors/blocks.mem", blocks_of);
        $readmemh("vectors/cycles.mem", expected_cycles);
        $readmemh("vectors/saturations.mem", expected_saturations);
        $readmemh("vectors/names.mem", names);
        $readmemh("vectors/input.mem", inputs);
        $readmemh("vectors/output.mem", outputs);
        $readmemh("vectors/output_masks.mem", output_masks);
        for (image = 0; image < `IMAGES; image = image + 1) run_image;
        for (step = 0; step < `STEPS; step = step + 1)
            $display("step %0d %0s: %0d cycles", step, names[step], step_cycles[step]);
        if (failures == 0) $display("PASS: %0d images, %0d results each, cycles of all %0d steps", `IMAGES, `RESULTS, `STEPS);
        else $display("FAIL: %0d differences", failures);
        $finish;
    end
endmodule
